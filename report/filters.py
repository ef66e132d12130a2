"""The first layer's filters in the arrangement of Krizhevsky 2012, Figure 3: tower A's above, tower B's below."""

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from report.drawing import STYLE, blank, show_image

COLUMNS = 16


def filter_pictures(weights: np.ndarray) -> np.ndarray:
    """conv1 weights float [filters, 3, k, k] → uint8 [filters, k, k, 3]: 0 is mid gray, each filter fills its range.

    Each filter is divided by its own largest absolute weight, so that faint filters are seen as well.
    """
    largest = np.abs(weights).max(axis=(1, 2, 3), keepdims=True)
    scaled = weights / np.where(largest == 0, 1, largest)
    return (127.5 + 127.5 * scaled).round().astype(np.uint8).transpose(0, 2, 3, 1)


def tile(pictures: np.ndarray, columns: int = COLUMNS, gap: int = 1, fill: int = 255) -> np.ndarray:
    """Pictures uint8 [n, h, w, 3] row by row in one sheet uint8 [H, W, 3], `gap` pixels of `fill` between them."""
    count, height, width, _ = pictures.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), fill, np.uint8)
    for number, picture in enumerate(pictures):
        top, left = number // columns * (height + gap), number % columns * (width + gap)
        sheet[top : top + height, left : left + width] = picture
    return sheet


def draw_filters(weights: np.ndarray) -> Figure:
    """Two sheets: the first half of conv1's filters is tower A (the paper's GPU 1), the second half tower B."""
    half = len(weights) // 2
    pictures = filter_pictures(weights)
    sheets = [tile(pictures[:half]), tile(pictures[half:])]
    width = 8.0 if half >= COLUMNS else max(3.0, 8.0 * half / COLUMNS)
    height = 2 * (width * sheets[0].shape[0] / sheets[0].shape[1] + 0.4)
    with rc_context(STYLE):
        figure = blank(width, height)
        for axes, sheet, tower in zip(figure.subplots(2, 1), sheets, "AB"):
            show_image(axes, sheet)
            axes.set_title(f"tower {tower}", loc="left")
    return figure
