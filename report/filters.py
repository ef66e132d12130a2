"""The section on the first layer's filters, arranged as in Krizhevsky 2012, Figure 3: tower A's above tower B's."""

import numpy as np

from common import ceil_div
from evaluation.trained_run import TrainedRun
from model import ModelConfig
from report.drawing import picture
from report.page import Card, Gallery, Section

COLUMNS = 16
SCALE = 5  # screen pixels for each of a filter


def filter_pictures(weights: np.ndarray) -> np.ndarray:
    """conv1 weights float [filters, 3, k, k] → uint8 [filters, k, k, 3]: 0 is mid gray, each filter fills its range.

    Each filter is divided by its own largest absolute weight, so that faint filters are seen as well.
    """
    largest = np.abs(weights).max(axis=(1, 2, 3), keepdims=True)
    scaled = weights / np.where(largest == 0, 1, largest)
    return (127.5 + 127.5 * scaled).round().astype(np.uint8).transpose(0, 2, 3, 1)


def tile(pictures: np.ndarray) -> np.ndarray:
    """Pictures uint8 [n, h, w, 3], sixteen in a row, as one sheet uint8 [H, W, 4], clear lines of a pixel between."""
    count, height, width, _ = pictures.shape
    columns = min(COLUMNS, count)
    rows = ceil_div(count, columns)
    cells = np.zeros((rows * columns, height + 1, width + 1, 4), np.uint8)
    cells[:count, :height, :width] = np.pad(pictures, [(0, 0)] * 3 + [(0, 1)], constant_values=255)
    grid = cells.reshape(rows, columns, height + 1, width + 1, 4).swapaxes(1, 2)
    return grid.reshape(rows * (height + 1), columns * (width + 1), 4)[:-1, :-1]


def filters_section(run: TrainedRun) -> Section:
    """A sheet for each tower: the first half of conv1's filters is tower A (the paper's GPU 1), the second tower B."""
    weights = run.state["model"]["conv1.weight"].float().numpy()
    towers = ModelConfig(**run.state["model_config"]).towers
    cards = [
        Card(
            pictures=[picture(tile(filters).repeat(SCALE, axis=0).repeat(SCALE, axis=1))],
            title=f"tower {tower}",
            alternative=f"{len(filters)} filters of conv1, {weights.shape[2]}×{weights.shape[3]} pixels in color.",
        )
        for filters, tower in zip(np.split(filter_pictures(weights), towers), "AB")
    ]
    caption = "Arranged as in Krizhevsky 2012, Figure 3. Gray is a weight of 0; each filter fills its own range."
    return Section(
        name="filters", title="First-layer filters", blocks=[Gallery(cards=cards, size="sheet", caption=caption)]
    )
