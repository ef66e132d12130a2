"""Pictures as shards store them → the network's inputs; its outputs for ten views → one answer an image.

For single pictures (predictions, the report's figures); whole splits go through `dali_pipelines.Loader`, which cuts the
same views. On the CPU single-threaded passes over 25 views run side by side: 1.2 (width 1) to 1.4 times (width 1/8) the
views a second of one pass over 100 on two threads, which wait for each other at every layer.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view

from common import ceil_div
from dali_pipelines import Normalize
from dali_pipelines.augmentation import CROP, VIEWS, Augmentation, RecipeName, fixed_views
from model import AlexNet
from sharding import RejectedImage, ShardSet, Statistics
from sharding.pictures import decode_stored

CENTER_VIEW = 2  # of the ten: the third crop, not mirrored
LOGITS = ("ten_patch_mean_logits", "center_crop")  # of what `average_views` gives; the rest are probabilities
VIEWS_IN_MEMORY, VIEWS_AT_ONCE = 250, 25
Function = Callable[[torch.Tensor], torch.Tensor]


def infer(function: Function, views: torch.Tensor) -> torch.Tensor:
    """Outputs [n, …] of `function`, such as a network, for views float32 [n, 3, 224, 224], on their device."""

    def one_pass(part: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return function(part)

    if views.is_cuda:
        return one_pass(views)
    threads = torch.get_num_threads()
    count = min(VIEWS_AT_ONCE, max(ceil_div(len(views), threads), 1))
    try:
        with ThreadPoolExecutor(threads, "inference", torch.set_num_threads, (1,)) as pool:
            return torch.cat(list(pool.map(one_pass, views.split(count))))
    finally:
        torch.set_num_threads(threads)  # the workers set what threads made later would take


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
    pictures = []
    for sample, stored in zip(ids, shards.images(ids)):
        try:
            pictures.append(stored if shards.encoding == "raw" else decode_stored(stored.tobytes(), "jpeg"))
        except RejectedImage as error:
            raise shards.damaged(int(sample), str(error)) from None
    return np.stack(pictures)


def cut(pixels: np.ndarray, augmentation: Augmentation) -> np.ndarray:
    """Crops of pixels uint8 [n, 256, 256, 3], mirrored after cropping: uint8 [n·v, 3, 224, 224].

    `augmentation` has v entries for each picture, picture by picture.
    """
    pictures = np.arange(len(pixels)).repeat(len(augmentation) // len(pixels))
    windows = np.moveaxis(sliding_window_view(pixels, (CROP, CROP), axis=(1, 2)), 3, -1)
    crops = windows[pictures, augmentation.crop_y, augmentation.crop_x]
    crops[augmentation.mirror] = crops[augmentation.mirror, :, ::-1]
    return crops.transpose(0, 3, 1, 2)


class Classifier:
    """A network with the statistics and the recipe that it was trained with, on one device."""

    def __init__(self, network: AlexNet, statistics: Statistics, recipe: RecipeName, device: torch.device) -> None:
        self.network = network.to(device).eval()
        self.statistics, self.recipe, self.device = statistics, recipe, device
        self.normalize = Normalize(statistics, recipe, device)

    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """Ten-patch probabilities float64 [n, classes] of pictures uint8 [n, 256, 256, 3], n at least 1."""
        return self._outputs(self.network, pixels, VIEWS, lambda logits: average_views(logits)["ten_patch"])

    def features(self, pixels: np.ndarray) -> np.ndarray:
        """Outputs of fc7 for the center crops of pictures uint8 [n, 256, 256, 3]: float32 [n, width of fc7]."""
        return self._outputs(self.network.features, pixels, 1, torch.Tensor.float)

    def _outputs(self, function: Function, pixels: np.ndarray, views: int, finish: Function) -> np.ndarray:
        """`finish` of `function`'s outputs for 1 or 10 standardized views of each picture, 250 views at a time."""
        parts = []
        for some in np.split(pixels, range(VIEWS_IN_MEMORY // views, len(pixels), VIEWS_IN_MEMORY // views)):
            augmentation = fixed_views(len(some), views)
            crops = self.normalize(torch.from_numpy(cut(some, augmentation)), augmentation)
            parts.append(finish(infer(function, crops)))
        return torch.cat(parts).cpu().numpy()
