"""What is done to each image: (recipe, seed, epoch, ids, positions) → crop, mirror, color offset.

Everything is keyed, nothing is streamed: the answer for a sample depends on what it is asked for, never on what
was asked before, by which rank, or in which order. Images are 256×256, crops 224×224.

recipe      crop and mirror                               color noise, keyed on the id
`original`  33 offsets; keyed on position // 32           0.1·N(0,1)·√λ along the eigenvectors, then ÷1.1
`paper`     32 offsets; a walk of its own for each id     N(0, 0.1)·λ/255² along the eigenvectors, ×255
"""

from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numba
import numpy as np
from numpy.typing import NDArray

from dali_pipelines.keyed import Integers, below, keyed_bits, keyed_normals, keyed_word, mixed_key
from sharding import Statistics

RecipeName = Literal["original", "paper"]
Crops = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.bool_]]  # y, x, mirror

IMAGE, CROP = 256, 224
CENTER = (IMAGE - CROP) // 2
ORIGINAL_OFFSETS = IMAGE - CROP + 1  # `randint(0, 2*16+1)`, convdata.py
ORIGINAL_CHUNK = 32  # "This many images will be cropped in the same way", convdata.py
NOISE = 0.1  # Krizhevsky 2012 §4.1; `color_noise`, convdata.py
ORIGINAL_DIVISOR = 1 + NOISE  # keeps the scale of training data near that of test data, convdata.py
VARIANT_BITS = 11  # "a factor of 2048": 32 · 32 crops, each mirrored or not, Krizhevsky 2012 §4.1
_LOW, _HIGH = 5, 6  # bits of its halves; an offset has as many as the low one
_OFFSET = (1 << _LOW) - 1
VIEWS: Final = 10
# the five crops of the ten views, as (y, x): corners and center in the order of convdata.py, then mirrored
VIEW_OFFSETS = ((0, 0), (0, 32), (CENTER, CENTER), (32, 0), (32, 32))

CHUNK, WALK, COLOR = 11, 12, 13  # what a key is for
_ROUNDS = 8


@dataclass(frozen=True)
class Augmentation:
    """Crop, mirror and color of n images (times the views, sample by sample).

    crop_y, crop_x: int32 [n], the crop's first row and column, 0..32. mirror: bool [n], after the crop.
    rgb_offset: float32 [n, 3], gray levels to add to R, G, B on the 0..255 scale. divisor: what the sum of
    pixel, minus mean, plus offset is divided by (1.1 while `original` adds noise, else 1).
    """

    crop_y: NDArray[np.int32]
    crop_x: NDArray[np.int32]
    mirror: NDArray[np.bool_]
    rgb_offset: NDArray[np.float32]
    divisor: float = 1.0

    def __len__(self) -> int:
        return len(self.crop_y)

    def centered(self) -> "Augmentation":
        """The same mirrors and colors of the center crop."""
        return replace(self, crop_y=np.full_like(self.crop_y, CENTER), crop_x=np.full_like(self.crop_x, CENTER))


def draw(
    recipe: RecipeName, seed: int, epoch: int, ids: Integers, positions: Integers, statistics: Statistics | None = None
) -> Augmentation:
    """The training augmentation of samples `ids` [n] that stand at `positions` [n] of the epoch's global order.

    `statistics` None means no color noise (and no division). Sources: Krizhevsky 2012 §4.1 and convdata.py.
    """
    crops = _chunk_crops(seed, epoch, positions) if recipe == "original" else _walked_crops(seed, epoch, ids)
    offset, divisor = np.zeros((len(ids), 3), np.float32), 1.0
    if statistics is not None:
        offset = _rgb_offset(recipe, keyed_normals(mixed_key(seed, epoch, COLOR), ids, 3), statistics)
        divisor = ORIGINAL_DIVISOR if recipe == "original" else 1.0
    return Augmentation(*crops, offset, divisor)


def fixed_views(samples: int, views: int) -> Augmentation:
    """The center crop (`views` 1) or the ten test views of each of `samples` images: no noise, no division.

    Sample by sample: entries 10·i to 10·i+9 belong to image i, five crops and then the five mirrored.
    """
    offsets, mirror = [(CENTER, CENTER)], [False]
    if views == VIEWS:
        offsets, mirror = list(VIEW_OFFSETS) * 2, [False] * len(VIEW_OFFSETS) + [True] * len(VIEW_OFFSETS)
    crop_y, crop_x = np.ascontiguousarray(np.tile(np.asarray(offsets, np.int32), (samples, 1)).T)
    return Augmentation(crop_y, crop_x, np.tile(mirror, samples), np.zeros((samples * views, 3), np.float32))


def mean_crops(recipe: RecipeName, choice: Augmentation) -> Crops:
    """Where the mean image is cropped, and whether it is mirrored, for each image of `choice`.

    `paper` crops and mirrors it with the image. `original` always takes its central 224×224 (convdata.py).
    """
    if recipe == "paper":
        return choice.crop_y, choice.crop_x, choice.mirror
    center = np.full_like(choice.crop_y, CENTER)
    return center, center, np.zeros_like(choice.mirror)


def _chunk_crops(seed: int, epoch: int, positions: Integers) -> Crops:
    """One draw for 32 consecutive places of the global order, from 33 offsets each way."""
    lanes = (positions // ORIGINAL_CHUNK)[:, None] * 3 + np.arange(3)
    bits = keyed_bits(mixed_key(seed, epoch, CHUNK), lanes)
    return below(bits[:, 0], ORIGINAL_OFFSETS), below(bits[:, 1], ORIGINAL_OFFSETS), below(bits[:, 2], 2) == 1


def _walked_crops(seed: int, epoch: int, ids: Integers) -> Crops:
    """Place `epoch` of each image's own order through its 2,048 variants; the orders change every 2,048 epochs."""
    cycle, place = divmod(epoch, 1 << VARIANT_BITS)
    variant = _permuted(np.uint64(place), keyed_bits(mixed_key(seed, cycle, WALK), ids)).astype(np.int32)
    crop_y, crop_x, mirror = variant & _OFFSET, (variant >> _LOW) & _OFFSET, (variant >> 2 * _LOW) == 1
    return crop_y, crop_x, mirror


@numba.vectorize(cache=True)
def _permuted(place: Any, key: Any) -> Any:
    """Where a permutation of 0..2047, chosen by `key`, sends `place`: a Feistel network on halves of 5 and 6 bits.

    Whatever the round function, each round can be undone, so no two places of one key meet.
    """
    low, high = place & np.uint64(_OFFSET), place >> np.uint64(_LOW)
    for number in range(_ROUNDS):
        if number % 2:
            low ^= keyed_word(np.uint64(number), key ^ high) >> np.uint64(64 - _LOW)
        else:
            high ^= keyed_word(np.uint64(number), key ^ low) >> np.uint64(64 - _HIGH)
    return high << np.uint64(_LOW) | low


def _rgb_offset(recipe: RecipeName, deviates: NDArray[np.float64], statistics: Statistics) -> NDArray[np.float32]:
    """Gray levels to add, float32 [n, 3], from N(0, 1) deviates [n, 3] along the eigenvectors (columns)."""
    # `paper`: λ of 0..1 data is λ/255²; back on the 0..255 scale that is λ/255
    spread = np.sqrt(statistics.eigenvalues) if recipe == "original" else statistics.eigenvalues / 255
    return ((deviates * NOISE * spread) @ statistics.eigenvectors.T).astype(np.float32)
