"""The training images nearest to held-out ones in fc7 features (Krizhevsky 2012, Figure 4, right)."""

from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from sklearn.neighbors import NearestNeighbors

from report.drawing import BLACK, GRAY, ORANGE, STYLE, blank, short_name, show_image


def nearest(training: np.ndarray, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `training` float [n, f] nearest to each of `queries` [q, f] in Euclidean distance, nearest first.

    Returns indices int64 [q, k] and distances [q, k], k = min(count, n).
    """
    search = NearestNeighbors(n_neighbors=min(count, len(training)), algorithm="brute").fit(training)
    distances, indices = search.kneighbors(queries)
    return indices, distances


def draw_neighbors(
    queries: Sequence[np.ndarray],
    query_names: Sequence[str],
    neighbors: Sequence[Sequence[np.ndarray]],
    neighbor_names: Sequence[Sequence[str]],
    same: np.ndarray,
) -> Figure:
    """A row for each held-out image: itself, a gap, its neighbors in order. Pixels uint8 [256, 256, 3].

    A neighbor of another class than the held-out image (`same` bool [queries, k] false) has its name in orange.
    """
    columns = max(len(row) for row in neighbors)
    with rc_context(STYLE):
        figure = blank(10, 1.65 * len(queries) + 0.4)
        figure.suptitle("left: held out; right: nearest training images, nearest first", fontsize=9, color=GRAY)
        grid = figure.add_gridspec(len(queries), columns + 2, width_ratios=[1, 0.12, *[1] * columns])
        for row, (query, name) in enumerate(zip(queries, query_names)):
            axes = figure.add_subplot(grid[row, 0])
            show_image(axes, query)
            axes.set_title(short_name(name, 18), fontsize=8.5, fontweight="bold", pad=3)
            for place, (image, other) in enumerate(zip(neighbors[row], neighbor_names[row])):
                axes = figure.add_subplot(grid[row, place + 2])
                show_image(axes, image)
                axes.set_title(short_name(other, 18), fontsize=8.5, pad=3, color=BLACK if same[row, place] else ORANGE)
    return figure
