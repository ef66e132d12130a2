"""What every picture of the report shares: size, colors, and figure → PNG bytes."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's colors, which color-blind readers can tell apart
BLUE, ORANGE, GREEN, GRAY, BLACK = "#0072b2", "#d55e00", "#009e73", "#8a8a8a", "#222222"
STYLE: Any = {"font.size": 9, "axes.titlesize": 10, "axes.spines.top": False, "axes.spines.right": False}
DOTS_PER_INCH = 110


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A drawn figure: `png` bytes, its file's stem, what it shows for those who cannot see it, and a caption."""

    name: str
    png: bytes
    alternative: str
    caption: str


def blank(width: float, height: float) -> Figure:
    """An empty figure of `width`×`height` inches, laid out without overlaps."""
    return Figure(figsize=(width, height), layout="constrained")


def png(figure: Figure) -> bytes:
    """The figure as a PNG without date or program version: the same figure gives the same bytes."""
    target = io.BytesIO()
    with rc_context(STYLE):
        figure.savefig(target, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return target.getvalue()


def show_image(axes: Axes, pixels: np.ndarray) -> None:
    """Draw pixels uint8 [h, w, 3] without axes; pixels shrink by averaging and grow as squares."""
    axes.imshow(pixels, interpolation="auto")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def short_name(name: str, length: int = 24) -> str:
    """The first of a class's comma-separated names, cut with an ellipsis at `length` letters."""
    first = name.split(",")[0].strip()
    return first if len(first) <= length else first[: length - 1].rstrip() + "…"
