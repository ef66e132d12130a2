"""A sheet of training pictures as the network sees them, the mean added back (so that eyes can read them)."""

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure

from dali_pipelines import Batch, Normalize
from report.drawing import STYLE, blank, show_image
from report.filters import tile

COLUMNS = 8


def with_mean(batch: Batch, normalize: Normalize) -> np.ndarray:
    """Undo division and mean of a standardized training batch: uint8 [n, 224, 224, 3], clipped to 0..255.

    Crop, mirror and color noise stay. What the recipe makes of black pixels without noise is minus its mean over its
    divisor, so taking that away leaves pixel plus noise.
    """
    augmentation = batch.augmentation
    black = torch.zeros(len(augmentation), 3, *batch.images.shape[2:], dtype=torch.uint8, device=batch.images.device)
    minus_mean = normalize(black, augmentation, noise=False)
    seen = (batch.images * augmentation.divisor - minus_mean).clamp(0, 255).round()
    return seen.to("cpu", torch.uint8).permute(0, 2, 3, 1).numpy()


def draw_augmented(sheets: list[np.ndarray], titles: list[str]) -> Figure:
    """One block of pictures a batch: uint8 [n, 224, 224, 3] each, eight in a row, in the batch's order."""
    rows = [-(-len(sheet) // COLUMNS) for sheet in sheets]
    with rc_context(STYLE):
        figure = blank(10, sum(rows) * 10 / COLUMNS + 0.3 * len(rows))
        for axes, sheet, title in zip(
            np.atleast_1d(figure.subplots(len(sheets), 1, height_ratios=rows)), sheets, titles
        ):
            show_image(axes, tile(sheet, columns=COLUMNS, gap=6))
            axes.set_title(title, loc="left")
    return figure
