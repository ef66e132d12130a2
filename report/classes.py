"""Errors by class, best and worst, and the confusion matrix of a small class table."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from sklearn.metrics import confusion_matrix

from report.drawing import BLUE, ORANGE, STYLE, blank, short_name

SHOWN = 12  # classes at each end
MATRIX_CLASSES = 30


def ends(errors: np.ndarray, shown: int = SHOWN) -> tuple[np.ndarray, np.ndarray]:
    """Classes with the lowest errors (best first) and with the highest (worst first); no class is in both.

    errors: float [classes], NaN for a class without images, which is left out.
    """
    order = np.lexsort((np.arange(len(errors)), errors))
    order = order[np.isfinite(errors[order])]
    if len(order) <= 2 * shown:
        half = -(-len(order) // 2)
        return order[:half], order[half:][::-1]
    return order[:shown], order[::-1][:shown]


def draw_class_errors(
    images: np.ndarray, top1_errors: np.ndarray, top5_errors: np.ndarray, names: Sequence[str]
) -> Figure:
    """Bars of the top-1 error, and a mark for the top-5 error, of the best classes (left) and worst (right).

    All three arrays are counts by class [classes].
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        top1, top5 = top1_errors / images, top5_errors / images
    best, worst = ends(top1)
    with rc_context(STYLE):
        figure = blank(10, 1.4 + 0.26 * max(len(best), len(worst), 2))
        for axes, chosen, title in zip(figure.subplots(1, 2), (best, worst), ("lowest error", "highest error")):
            places = np.arange(len(chosen))
            axes.barh(places, top1[chosen], color=BLUE, alpha=0.7, height=0.7, label="top-1 error")
            axes.plot(top5[chosen], places, "|", color=ORANGE, markersize=11, markeredgewidth=2, label="top-5 error")
            axes.set_yticks(places, [f"{short_name(names[c], 26)} ({images[c]})" for c in chosen])
            axes.set_ylim(max(len(chosen), 1) - 0.4, -0.6)
            axes.set_xlim(0, 1)
            axes.xaxis.set_major_formatter(PercentFormatter(1.0))
            axes.set_title(title, loc="left")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def confusions(labels: np.ndarray, guesses: np.ndarray, classes: int) -> np.ndarray:
    """Counts int64 [classes, classes]: row the true class, column the best guess."""
    return confusion_matrix(labels, guesses, labels=np.arange(classes))


def draw_confusions(counts: np.ndarray, names: Sequence[str]) -> Figure:
    """The matrix, shaded by the share of each true class, the counts written in where they are not 0."""
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 2.6 + 0.36 * len(counts)
    short = [short_name(name, 18) for name in names]
    with rc_context(STYLE):
        figure = blank(size + 0.4, size)
        axes = figure.subplots()
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for row, column in zip(*np.nonzero(counts)):
            ink = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=7.5, color=ink)
        long = max(map(len, short)) > 3
        slant: Any = {"rotation": 60, "ha": "right", "rotation_mode": "anchor"} if long else {}
        axes.set_xticks(range(len(short)), short, **slant)
        axes.set_yticks(range(len(short)), short)
        axes.set_xlabel("best guess")
        axes.set_ylabel("true class")
        axes.spines[:].set_visible(False)
    return figure
