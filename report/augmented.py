"""The section on training batches as the network sees them, the mean added back (so that eyes can read them)."""

import numpy as np
import torch

from dali_pipelines import Batch, DataConfig, Loader, LoaderError, Normalize
from evaluation.trained_run import TrainedRun
from report.drawing import picture
from report.page import Card, Gallery, Section
from sharding import ShardSet

SHOWN, SIDE = 24, 128


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


def augmented_section(run: TrainedRun, training: ShardSet) -> Section:
    """The first training batches of epochs 1 and 2, in the batch's order."""
    title, galleries = "Training batches as the network sees them", []
    try:
        config = DataConfig(**run.state["data_config"])
    except (TypeError, ValueError) as error:
        return Section("augmented", title, [f"No batch: data_config of the checkpoint: {error}"])
    normalize = Normalize(run.statistics, run.recipe, "cpu")
    try:
        with Loader(training, config, statistics=run.statistics) as loader:
            for epoch in (0, 1):
                batch = next(iter(loader.epoch(epoch)))
                noise = float(np.abs(batch.augmentation.rgb_offset[:SHOWN]).max())
                seen = (picture(pixels, SIDE) for pixels in with_mean(batch, normalize)[:SHOWN])
                cards = [Card(pictures=[uri], alternative="A training image, cropped.") for uri in seen]
                caption = f"First batch of epoch {epoch + 1}, color noise of up to {noise:.0f} gray levels."
                galleries.append(Gallery(cards=cards, size="small", caption=caption))
    except LoaderError as error:
        return Section("augmented", title, [f"No batch: {error}"])
    crops = "crops" if config.random_crops else "center crops"
    what = f"{crops}, mirrors and color noise" if config.augment else "center crops (trained without augmentation)"
    sentence = f"Recipe {run.recipe}: 224×224 {what}, the mean added back, values clipped to 0..255."
    return Section("augmented", title, [sentence], galleries)
