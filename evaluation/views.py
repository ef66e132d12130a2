"""Pictures as shards store them → the network's inputs; its outputs for ten views → one answer an image.

For single pictures (predictions, the report's figures). Whole splits go through `dali_pipelines.Loader`, which
cuts the same views.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from dali_pipelines import Normalize
from dali_pipelines.augmentation import CROP, VIEWS, Augmentation, RecipeName, fixed_views
from evaluation.inference import inference
from model import AlexNet
from sharding import RejectedImage, ShardError, ShardSet, Statistics
from sharding.resize import decode_stored

CENTER_VIEW = 2  # of the ten: the third crop, not mirrored
VIEWS_IN_MEMORY = 250


def average_views(logits: torch.Tensor) -> dict[str, torch.Tensor]:
    """Logits [n·10, classes], ten consecutive rows an image → three ways to an answer: float64 [n, classes] each.

    `ten_patch`: the mean of the ten views' softmax outputs (Krizhevsky 2012 §4.1), probabilities. `center_crop` and
    `ten_patch_mean_logits`: logits, those of the center crop and the mean of all ten (the seed). On the same device.
    """
    views = logits.double().unflatten(0, (-1, VIEWS))
    probabilities, center = views.softmax(dim=2).mean(dim=1), views[:, CENTER_VIEW]
    return {"ten_patch": probabilities, "ten_patch_mean_logits": views.mean(dim=1), "center_crop": center}


def average_networks(answers: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The mean of several networks' answers for a batch: of probabilities, of logits, of center-crop probabilities."""
    if len(answers) == 1:
        return answers[0]
    means = {method: torch.stack([answer[method] for answer in answers]).mean(dim=0) for method in answers[0]}
    center = torch.stack([answer["center_crop"].softmax(dim=1) for answer in answers]).mean(dim=0)
    return means | {"center_crop": center.clamp_min(torch.finfo(center.dtype).tiny).log()}


def pixels_of(shards: ShardSet, ids: np.ndarray) -> np.ndarray:
    """The stored pictures of samples `ids` [n], n at least 1: uint8 [n, 256, 256, 3] RGB.

    Raises ShardError with shard and key for one that does not decode.
    """
    stored = shards.images(ids)
    if shards.encoding == "raw":
        return np.stack(stored)
    decoded = []
    for sample, view in zip(ids, stored):
        try:
            decoded.append(decode_stored(view.tobytes(), "jpeg"))
        except RejectedImage as error:
            name, key = shards.locate(int(sample))
            where = f"{shards.path / name}, key {key}"
            raise ShardError(f"{where}: {error}; check with: python -m sharding verify {shards.path}") from None
    return np.stack(decoded)


def cut(pixels: np.ndarray, augmentation: Augmentation) -> np.ndarray:
    """Crops of pixels uint8 [n, 256, 256, 3], mirrored after cropping: uint8 [n·v, 3, 224, 224].

    `augmentation` has v entries for each picture, picture by picture.
    """
    views = len(augmentation) // len(pixels)
    crops = np.empty((len(augmentation), 3, CROP, CROP), np.uint8)
    for place, crop in enumerate(crops):
        top, left = int(augmentation.crop_y[place]), int(augmentation.crop_x[place])
        window = pixels[place // views, top : top + CROP, left : left + CROP]
        crop[:] = (window[:, ::-1] if augmentation.mirror[place] else window).transpose(2, 0, 1)
    return crops


class Classifier:
    """A network with the statistics and the recipe that it was trained with, on one device."""

    def __init__(self, network: AlexNet, statistics: Statistics, recipe: RecipeName, device: torch.device) -> None:
        self.network = network.to(device).eval()
        self.statistics, self.recipe, self.device = statistics, recipe, device
        self._normalize = Normalize(statistics, recipe, device)

    def normalize(self, views: torch.Tensor, augmentation: Augmentation) -> torch.Tensor:
        """Views uint8 [n, 3, 224, 224] from any device → the network's inputs float32 on its own."""
        return self._normalize(views.to(self.device, non_blocking=True), augmentation)

    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """Ten-patch probabilities float64 [n, classes] of pictures uint8 [n, 256, 256, 3], n at least 1."""
        with inference() as compute:
            parts = [average_views(compute(self.network, views))["ten_patch"] for views in self._views(pixels, VIEWS)]
        return torch.cat(parts).cpu().numpy()

    def features(self, pixels: np.ndarray) -> np.ndarray:
        """Outputs of fc7 for the center crops of pictures uint8 [n, 256, 256, 3]: float32 [n, width of fc7]."""
        with inference() as compute:
            parts = [compute(self.network.features, views) for views in self._views(pixels, 1)]
        return torch.cat(parts).float().cpu().numpy()

    def _views(self, pixels: np.ndarray, views: int) -> Iterator[torch.Tensor]:
        """Standardized views [≤250, 3, 224, 224] of some pictures at a time."""
        count = VIEWS_IN_MEMORY // views
        for start in range(0, len(pixels), count):
            some = pixels[start : start + count]
            augmentation = fixed_views(len(some), views)
            yield self.normalize(torch.from_numpy(cut(some, augmentation)), augmentation)
