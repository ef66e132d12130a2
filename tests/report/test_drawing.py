"""Lines → chart → SVG; pixels → pictures; names cut short."""

import base64
import io
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from report.drawing import COLORS, Line, draw_lines, picture, short_name, svg


def line(*y: float, **changes: object) -> Line:
    return Line(x=np.arange(1.0, len(y) + 1), y=np.array(y), color="blue", **changes)  # type: ignore[arg-type]


def test_a_chart_has_the_given_numbers_in_order() -> None:
    lines = [line(3, 2, 1), line(2, 2, 1.5, dashed=True), line(0.4, 0.4, 0.1, steps=True)]
    axes = draw_lines(lines, "number", last=3).axes[0]
    for drawn, given in zip(axes.lines, lines, strict=True):
        np.testing.assert_array_equal(drawn.get_xdata(), given.x)
        np.testing.assert_array_equal(drawn.get_ydata(), given.y)
        assert to_hex(drawn.get_color()) == COLORS["blue"]
    assert [drawn.get_linestyle() for drawn in axes.lines] == ["-", "--", "-"]
    assert [drawn.get_drawstyle() for drawn in axes.lines] == ["default", "default", "steps-pre"]
    assert axes.get_ylim() == pytest.approx((0, 1.06 * 3))  # nothing is cut off at the top
    assert axes.get_xlim() == pytest.approx((0, 1.02 * 3)) and axes.get_xlabel() == "epochs"


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ((0.01, 0.001, 0.0001), ["0.0001", "0.001", "0.01"]),
        ((0.02, 0.02, 0.02), ["0.01", "0.02"]),  # a constant rate has numbers beside it, too
    ],
)
def test_a_logarithmic_axis_has_plain_numbers(values: tuple[float, ...], labels: list[str]) -> None:
    text = svg(draw_lines([line(*values)], "log", last=3))
    shown = [element.text for element in ET.fromstring(text).iter() if element.tag.endswith("text")]
    assert set(labels) <= set(shown)


def test_an_svg_takes_its_colors_and_its_size_from_the_page() -> None:
    text = svg(draw_lines([line(1, 2)], "percent", last=2))
    root = ET.fromstring(text)
    assert "width" not in root.attrib and root.attrib["viewBox"] == "0 0 360 200"
    assert "var(--blue, #0072b2)" in text and "currentColor" in text
    assert not re.findall(r"(?:fill|stroke): #(?!0072b2)", text)  # black would not be seen in the dark
    assert {float(size) for size in re.findall(r"font-size: ([\d.]+)px", text)} == {12.0}
    assert "font-family" not in text and "<style" not in text and "<metadata" not in text
    ids = re.findall(r' id="([^"]+)"', text)
    assert all(f"#{name}" in text for name in ids)  # others would be on the page many times
    assert svg(draw_lines([line(1, 2)], "percent", last=2)) == text


def opened(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2])))


def test_pictures_are_inside_their_address() -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, 32:] = (200, 100, 50)
    scaled = opened(picture(pixels, 32))
    assert (scaled.format, scaled.size) == ("JPEG", (32, 32))
    assert np.abs(np.asarray(scaled, int)[5, 28] - (200, 100, 50)).max() < 6
    exact = opened(picture(pixels))
    assert exact.format == "PNG"
    np.testing.assert_array_equal(np.asarray(exact), pixels)


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("tench, Tinca tinca", "tench"),
        ("x" * 24, "x" * 24),
        ("x" * 25, "x" * 23 + "…"),
        ("soft-coated wheaten terrier and more", "soft-coated wheaten ter…"),
    ],
)
def test_short_names(name: str, short: str) -> None:
    assert short_name(name) == short
