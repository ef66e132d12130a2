"""From mirrored uint8 crops to what a recipe's network eats: mean image off, color offset on, scale.

`CropNormalize` is what the loader uses on the CPU; `Normalize` does the same to a batch of uint8 crops that has
travelled (to a GPU, or from the other rank of a pair).
"""

import numpy as np
import torch
from numpy.typing import NDArray

from dali_pipelines.augmentation import CROP, Augmentation, RecipeName, mean_crops
from dali_pipelines.config import to_tensor
from dali_pipelines.crops import COLUMNS, MEAN, MIRROR, OUT, Crops, X, Y, place_pixels
from sharding import Statistics

IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # torchvision's, of 0..1 data, RGB


def mean_and_deviation(statistics: Statistics, normalize: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What `DataConfig.normalize` takes off, [256, 256, 3], and divides by, [3], on 0..255 data."""
    if normalize == "recipe":
        return statistics.mean_image, np.ones(3)
    mean, deviation = (255 * np.array(values) for values in (IMAGENET_MEAN, IMAGENET_DEVIATION))
    if normalize == "none":
        mean, deviation = np.zeros(3), np.ones(3)
    return np.zeros_like(statistics.mean_image) + mean, deviation


class CropNormalize:
    """The compiled pass (`crops.place_pictures`), bound to a mean image, a deviation by channel and a recipe."""

    def __init__(self, statistics: Statistics, recipe: RecipeName, normalize: str = "recipe") -> None:
        mean, self._deviation = mean_and_deviation(statistics, normalize)
        self._means = np.stack([mean, mean[:, ::-1]]).astype(np.float32)
        self._recipe = recipe

    def crops(self, augmentation: Augmentation, out: torch.Tensor, views: int = 1) -> Crops:
        """Crops for `out` [n·views, 3, 224, 224], channels-last: mirrored as uint8, normalized as float32.

        They hold addresses in `out` and in this object, which must both live as long as they are in use.
        """
        mean_y, mean_x, mirrored = mean_crops(self._recipe, augmentation)
        _, side, _, channels = self._means.shape
        value = ((mirrored * side + mean_y) * side + np.where(mirrored, side - CROP - mean_x, mean_x)) * channels
        places = np.empty((len(augmentation), COLUMNS), np.int64)
        places[:, Y], places[:, X], places[:, MIRROR] = augmentation.crop_y, augmentation.crop_x, augmentation.mirror
        places[:, MEAN] = self._means.ctypes.data + value * self._means.itemsize
        places[:, OUT] = out.data_ptr() + np.arange(len(places)) * (channels * CROP * CROP * out.itemsize)
        scale = (1 / (augmentation.divisor * self._deviation)).astype(np.float32)
        return Crops(views, places, scale, augmentation.rgb_offset * scale, out.dtype == torch.float32)


class Normalize:
    """Mirrored uint8 crops [n, 3, 224, 224] → float32, as `Loader` delivers with output="float32"."""

    def __init__(self, statistics: Statistics, recipe: RecipeName, device: str | torch.device) -> None:
        self._recipe = recipe
        self._device = torch.device(device)
        self._crop_normalize = CropNormalize(statistics, recipe)
        self._mean = torch.from_numpy(statistics.mean_image.astype(np.float32)).to(self._device)

    def __call__(self, images: torch.Tensor, augmentation: Augmentation) -> torch.Tensor:
        """(crop − mean image + color offset) ÷ divisor: float32 [n, 3, 224, 224], channels-last, on the device.

        `augmentation`: what the n images were cropped and mirrored by. ValueError for another type, shape or number.
        """
        shape = (len(augmentation), 3, CROP, CROP)
        if images.dtype != torch.uint8 or tuple(images.shape) != shape:
            raise ValueError(f"images {images.dtype} {list(images.shape)}: expected torch.uint8 {list(shape)}")
        rows = images.to(self._device, non_blocking=True).permute(0, 2, 3, 1).contiguous()
        by = self.by_compiled_pass if self._device.type == "cpu" else self.by_torch
        return by(rows, augmentation)

    def by_compiled_pass(self, rows: torch.Tensor, augmentation: Augmentation) -> torch.Tensor:
        """On the CPU: uint8 [n, 224, 224, 3] → float32 [n, 3, 224, 224] by the compiled pass."""
        out = torch.empty(rows.shape, dtype=torch.float32).permute(0, 3, 1, 2)
        crops = self._crop_normalize.crops(augmentation, out)
        crops.places[:, [Y, X, MIRROR]] = 0  # they are crops already, and mirrored
        place_pixels(rows.data_ptr() + np.arange(len(rows)) * (CROP * CROP * 3), CROP, crops)
        return out

    def by_torch(self, rows: torch.Tensor, augmentation: Augmentation) -> torch.Tensor:
        """On any device: uint8 [n, 224, 224, 3] → float32 [n, 3, 224, 224] by PyTorch's operators.

        What the augmentation says travels as one tensor, pinned where there is a GPU, so that nothing waits for it.
        """
        columns = [*mean_crops(self._recipe, augmentation), *augmentation.rgb_offset.T]
        choices = to_tensor(np.stack(columns, axis=1, dtype=np.float32)).to(self._device, non_blocking=True)
        y, x, mirror = choices[:, :3].long().T
        places = torch.arange(CROP, device=self._device)
        columns_of_mean = torch.where(mirror[:, None] > 0, CROP - 1 - places, places) + x[:, None]
        pixels = rows.float()
        pixels -= self._mean[(y[:, None] + places)[:, :, None], columns_of_mean[:, None, :]]
        pixels += choices[:, None, None, 3:]
        pixels /= augmentation.divisor
        return pixels.permute(0, 3, 1, 2)
