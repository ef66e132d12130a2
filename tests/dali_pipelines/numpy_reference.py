"""What a batch must be, in NumPy and Pillow, one image at a time, from the sources and not from the code.

Pictures come out as [3, 224, 224], channels first, as networks eat them.
"""

import io

import numpy as np
from PIL import Image

from sharding import ShardSet, Statistics

# (y, x) of the five crops of convdata.py's `multiview`, border 16
FIVE = [(0, 0), (0, 32), (16, 16), (32, 0), (32, 32)]


def decoded(shards: ShardSet, sample: int) -> np.ndarray:
    """uint8 [256, 256, 3], by Pillow's decoder where it is a JPEG."""
    image = shards.images([sample])[0]
    if shards.encoding == "raw":
        return np.array(image)
    return np.asarray(Image.open(io.BytesIO(image.tobytes())))


def crop_of(picture: np.ndarray, y: int, x: int, mirrored: bool) -> np.ndarray:
    """[224, 224, 3] of any type."""
    crop = picture[y : y + 224, x : x + 224]
    return np.flip(crop, axis=1) if mirrored else crop


def uint8_image(picture: np.ndarray, y: int, x: int, mirrored: bool) -> np.ndarray:
    return np.moveaxis(crop_of(picture, y, x, mirrored), 2, 0)


def float32_image(
    picture: np.ndarray,
    statistics: Statistics,
    recipe: str,
    y: int,
    x: int,
    mirrored: bool,
    deviates: np.ndarray | None,
) -> np.ndarray:
    """The standardized image; `deviates` are three N(0, 1) draws along the eigenvectors, None without noise."""
    image = crop_of(picture, y, x, mirrored).astype(np.float64)
    if recipe == "original":
        image = image - statistics.mean_image[16:240, 16:240]
    else:
        image = image - crop_of(statistics.mean_image, y, x, mirrored)
    if deviates is not None:
        shift = np.zeros(3)
        for component in range(3):
            eigenvalue = statistics.eigenvalues[component]
            if recipe == "original":
                size = 0.1 * deviates[component] * np.sqrt(eigenvalue)
            else:
                size = 0.1 * deviates[component] * (eigenvalue / 255**2) * 255
            shift += size * statistics.eigenvectors[:, component]
        image = image + shift
        if recipe == "original":
            image = image / 1.1
    return np.moveaxis(image, 2, 0)


def ten_views(picture: np.ndarray) -> list[np.ndarray]:
    """The ten test views as uint8, five crops and then the five mirrored."""
    return [uint8_image(picture, y, x, mirrored) for mirrored in (False, True) for y, x in FIVE]
