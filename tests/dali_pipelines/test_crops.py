"""The compiled pass alone: odd widths, corners, several threads, and not a byte outside its buffers."""

import mmap
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from common import ceil_div
from dali_pipelines.crops import Crops, place_pictures, place_pixels

MIRRORED = [False, True]


def guarded(content: np.ndarray) -> tuple[np.ndarray, int]:
    """A copy that ends where its last memory page does, so that reading on would end the process."""
    size = ceil_div(content.nbytes, mmap.PAGESIZE) * mmap.PAGESIZE
    memory = np.frombuffer(mmap.mmap(-1, size), np.uint8)
    memory[size - content.nbytes :] = content.reshape(-1)
    return memory, int(memory.ctypes.data) + size - content.nbytes


def crops_of(out: np.ndarray, y: Any = 0, x: Any = 0, mirror: Any = False, mean: int = 0) -> Crops:
    """`Crops` of one view each, for arrays or single values; `mean` is the address of the crop of the mean image."""
    places = np.zeros((len(out), 5), np.int64)
    places[:, 0], places[:, 1], places[:, 2], places[:, 3] = y, x, mirror, mean
    places[:, 4] = out.ctypes.data + np.arange(len(out)) * out[0].nbytes
    scale = np.array([0.5, 0.25, 2.0], np.float32)
    offset = np.tile(np.array([[10.5, -20.25, 3.0]], np.float32) * scale, (len(out), 1))
    return Crops(views=1, places=places, scale=scale, offset=offset, normalized=out.dtype == np.float32)


@pytest.mark.parametrize("mirror", MIRRORED)
@pytest.mark.parametrize(("side", "y", "x"), [(224, 0, 0), (256, 0, 0), (256, 32, 32), (256, 0, 32), (256, 7, 19)])
def test_crops_are_numpys_and_nothing_else_is_written(side: int, y: int, x: int, mirror: bool) -> None:
    image = np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8)
    memory, address = guarded(image)
    expected = image[y : y + 224, x : x + 224]
    expected = expected[:, ::-1] if mirror else expected
    padded = np.full((3, 224, 224, 3), 77, np.uint8)
    place_pixels(np.array([address]), side, crops_of(padded[1:2], y=y, x=x, mirror=mirror))
    np.testing.assert_array_equal(padded[1], expected)
    assert (padded[0] == 77).all() and (padded[2] == 77).all() and len(memory) % mmap.PAGESIZE == 0


@pytest.mark.parametrize("mean_mirror", MIRRORED)
@pytest.mark.parametrize("mirror", MIRRORED)
def test_mean_and_image_are_mirrored_each_on_its_own(mirror: bool, mean_mirror: bool) -> None:
    random = np.random.default_rng(2)
    image = random.integers(0, 256, (256, 256, 3), np.uint8)
    mean = random.uniform(0, 255, (256, 256, 3)).astype(np.float32)
    mirrored = np.ascontiguousarray(mean[:, ::-1])
    memory, address = guarded(image)
    out = np.full((1, 224, 224, 3), np.nan, np.float32)
    first = mirrored[31:, 30:] if mean_mirror else mean[31:, 2:]  # a crop at (31, 2), as it is or mirrored
    place_pixels(np.array([address]), 256, crops_of(out, y=5, x=30, mirror=mirror, mean=first.ctypes.data))
    crop, mean_crop = image[5:229, 30:254].astype(np.float64), mean[31:255, 2:226].astype(np.float64)
    crop = crop[:, ::-1] if mirror else crop
    mean_crop = mean_crop[:, ::-1] if mean_mirror else mean_crop
    expected = (crop - mean_crop + [10.5, -20.25, 3.0]) * [0.5, 0.25, 2.0]
    np.testing.assert_allclose(out[0], expected, rtol=0, atol=1e-4)
    assert len(memory) >= image.nbytes


def test_threads_share_a_batch_and_each_picture_is_placed_once() -> None:
    images = np.random.default_rng(3).integers(0, 256, (60, 256, 256, 3), np.uint8)
    addresses = images.ctypes.data + np.arange(60) * images[0].nbytes
    y, x = np.arange(60) % 33, np.arange(60) % 31
    out, taken, nothing = np.zeros((60, 224, 224, 3), np.uint8), np.zeros(1, np.int64), np.zeros(0, np.int64)
    crops = crops_of(out, y=y, x=x)
    with ThreadPoolExecutor(5) as threads:
        list(threads.map(lambda _: place_pictures(nothing, addresses, nothing, crops, taken, nothing), range(5)))
    assert taken[0] == 65  # each picture once, and each thread one number beyond them
    for number in range(60):
        expected = images[number, y[number] : y[number] + 224, x[number] : x[number] + 224]
        np.testing.assert_array_equal(out[number], expected)
