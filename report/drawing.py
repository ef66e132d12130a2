"""What the figures of the report share: colors, lines → a chart as SVG, pixels → pictures inside the page."""

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, PercentFormatter, StrMethodFormatter
from PIL import Image

# Okabe and Ito's colors, which color-blind readers can tell apart; the page lightens them in the dark
COLORS = {
    "blue": "#0072b2",
    "orange": "#d55e00",
    "green": "#009e73",
    "purple": "#aa4499",
    "yellow": "#8f6b00",
    "sky": "#56b4e9",
    "gray": "#8a8a8a",
}
BLACK = "#222222"
MARKED = 50  # a line of fewer points has a mark at each
WIDTH, HEIGHT = 360, 200  # pixels, where a chart is not scaled: on a phone
STYLE: Any = {
    "font.size": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "report",  # the same figure gives the same bytes
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color"), BLACK),
}


@dataclass(frozen=True, kw_only=True)
class Line:
    """x, y float [n], in a color of `COLORS`. `steps`: each y holds from the x before to its own."""

    x: np.ndarray
    y: np.ndarray
    color: str
    dashed: bool = False
    steps: bool = False


def draw_lines(lines: Sequence[Line], form: Literal["number", "percent", "log"], last: float) -> Figure:
    """Lines over epochs 0..`last`, the first ones lowest; the y axis begins at 0 unless it is logarithmic."""
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72), layout="constrained")
        axes = figure.subplots()
        for line in lines:
            form_of_line = ("--" if line.dashed else "-") + ("o" if len(line.x) < MARKED and not line.steps else "")
            style = "steps-pre" if line.steps else "default"
            axes.plot(line.x, line.y, form_of_line, color=COLORS[line.color], lw=1.4, ms=3, drawstyle=style)
        axes.set_xlabel("epochs")
        axes.set_xlim(0, 1.02 * last)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
        if form == "log":
            low, high = axes.dataLim.y0, axes.dataLim.y1
            axes.set_yscale("log")
            axes.set_ylim(low / 2, high * 2)
            axes.yaxis.set_major_locator(LogLocator(subs=(1,) if high >= 10 * low else (1, 2, 5)))
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))  # the usual one's exponents are too small
            axes.yaxis.set_minor_locator(NullLocator())
            return figure
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.set_ylim(0, 1.06 * axes.dataLim.y1 if axes.dataLim.y1 > 0 else 1)
        if form == "percent":
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    return figure


def svg(figure: Figure) -> str:
    """The figure as an SVG element: scaled and colored by the page's style; alone it has the light page's colors."""
    target = io.StringIO()
    with rc_context(STYLE):
        figure.savefig(target, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = target.getvalue()
    text = text[text.index("<svg") :].replace(f' width="{WIDTH}pt" height="{HEIGHT}pt"', "", 1)
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r' id="[a-z.]*[a-z][0-9a-z]*_\d+"', "", text)  # of groups: charts on one page would share them
    text = re.sub(r"font-family: [^;]*;", "", text).replace(BLACK, "currentColor")
    for name, color in COLORS.items():
        text = text.replace(color, f"var(--{name}, {color})")
    return text


def picture(pixels: np.ndarray, side: int | None = None) -> str:
    """A data URI of pixels uint8 [h, w, 3]: a JPEG scaled to `side`×`side`, or an exact PNG."""
    image, target, kind = Image.fromarray(pixels), io.BytesIO(), "jpeg" if side else "png"
    (image.resize((side, side)) if side else image).save(target, kind, quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(target.getvalue()).decode('ascii')}"


def short_name(name: str, length: int = 24) -> str:
    """The first of a class's comma-separated names, cut with an ellipsis at `length` letters."""
    first = name.split(",")[0].strip()
    return first if len(first) <= length else first[: length - 1].rstrip() + "…"
