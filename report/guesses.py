"""Pictures with the network's five best guesses as bars, the true class marked (Krizhevsky 2012, Figure 4, left)."""

from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from report.drawing import BLACK, BLUE, ORANGE, STYLE, blank, short_name, show_image

COLUMNS = 4


def draw_guesses(
    pixels: Sequence[np.ndarray],
    labels: np.ndarray,
    best: np.ndarray,
    probabilities: np.ndarray,
    names: Sequence[str],
) -> Figure:
    """One panel a picture, four in a row.

    pixels: uint8 [256, 256, 3] each; labels int64 [n]; best int [n, k] classes, best first; probabilities [n, k] of
    these; names by label. The bar of the true class is orange, the others blue.
    """
    rows = -(-len(pixels) // COLUMNS)
    with rc_context(STYLE):
        figure = blank(10, 4.25 * rows)
        figure.get_layout_engine().set(h_pad=0.08)  # type: ignore[union-attr,call-arg]
        grid = figure.add_gridspec(2 * rows, COLUMNS, height_ratios=[2.3, 1.2] * rows)
        for number, image in enumerate(pixels):
            row, column = divmod(number, COLUMNS)
            above, below = (figure.add_subplot(grid[2 * row + part, column]) for part in (0, 1))
            show_image(above, image)
            above.set_title(short_name(names[labels[number]], 26), fontweight="bold")
            _bars(below, int(labels[number]), best[number], probabilities[number], names)
    return figure


def _bars(axes: Axes, label: int, best: np.ndarray, probabilities: np.ndarray, names: Sequence[str]) -> None:
    places = range(len(best))
    colors = [ORANGE if guess == label else BLUE for guess in best]
    axes.barh(places, probabilities, color=colors, alpha=0.45, height=0.86)
    for place, guess in zip(places, best):
        mark = "✓ " if guess == label else ""
        weight = "bold" if guess == label else "normal"
        axes.text(
            0.02, place, mark + short_name(names[guess]), va="center", fontsize=8.5, color=BLACK, fontweight=weight
        )
    for place, probability in zip(places, probabilities):
        axes.text(1.0, place, f"{100 * probability:.1f} %", va="center", ha="right", fontsize=7.5, color=BLACK)
    axes.set_xlim(0, 1)
    axes.set_ylim(4.6, -0.6)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[["top", "right", "bottom"]].set_visible(False)
