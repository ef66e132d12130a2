"""Training curves over epochs: loss, errors, rate, images/s, with a published run behind them."""

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from report.drawing import BLACK, BLUE, GRAY, ORANGE, STYLE, blank
from report.metrics import Metrics, binned

PANELS = (
    ("loss", "log loss (nats)"),
    ("top1_error", "top-1 error"),
    ("top5_error", "top-5 error"),
    ("rate", "rate"),
    ("images_per_second", "images/s"),
)


def draw_curves(metrics: Metrics, published: dict[str, np.ndarray] | None) -> Figure:
    """Five panels over epochs; lines are labelled "training", "validation" and "seed, …".

    `published` is `published_curve()` where the data set is the one it was made on, else None.
    """
    with rc_context(STYLE):
        figure = blank(10, 8.2)
        panels = figure.subplots(3, 2).flatten()
        for axes, (column, title) in zip(panels, PANELS):
            if published is not None:
                _published_lines(axes, column, published)
            _own_lines(axes, column, metrics)
            _finish(axes, column, title)
        longest = max(axes.dataLim.x1 for axes in panels[:-1] if axes.lines)
        for axes in panels[:-1]:
            axes.set_xlim(0, 1.02 * longest)
        _legend(panels[-1], list(panels[:-1]))
    return figure


def _own_lines(axes: Axes, column: str, metrics: Metrics) -> None:
    if column in metrics.training:
        x, y = binned(metrics.epochs, metrics.training[column])
        axes.plot(x, y, color=BLUE, linewidth=1.2, marker="." if len(x) < 3 else "", label="training")
    if column in metrics.validation:
        x, y = metrics.validation_epochs, metrics.validation[column]
        axes.plot(x, y, color=ORANGE, linewidth=1.2, marker="o", markersize=3, label="validation")


def _published_lines(axes: Axes, column: str, published: dict[str, np.ndarray]) -> None:
    for name, style, label in (
        (f"training_{column}", "-", "seed, training"),
        (f"validation_{column}", "--", "seed, validation (one random view)"),
        (column, "-", "seed, training"),
    ):
        if name in published:
            steps = "steps-pre" if name == "rate" else "default"
            axes.plot(published["epoch"], published[name], style, color=GRAY, lw=1, label=label, drawstyle=steps)


def _finish(axes: Axes, column: str, title: str) -> None:
    axes.set_title(title, loc="left", color=BLACK)
    axes.set_xlabel("epochs")
    axes.grid(alpha=0.25, linewidth=0.5)
    if not axes.lines:
        axes.text(0.5, 0.5, "not logged in this run", ha="center", va="center", transform=axes.transAxes, color=GRAY)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 2.5, 5, 10]))
    if column == "rate":
        axes.set_yscale("log")
        return
    axes.set_ylim(0, 1.06 * axes.dataLim.y1)
    if column.endswith("_error"):
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def _legend(corner: Axes, panels: list[Axes]) -> None:
    """One legend for all panels in the free corner."""
    handles = {str(line.get_label()): line for axes in panels for line in axes.lines}
    corner.axis("off")
    corner.legend(list(handles.values()), list(handles), loc="center", frameon=False, fontsize=10)
