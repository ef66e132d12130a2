"""The compiled pass alone: odd widths, corners, and not a byte outside its buffers."""

import mmap

import numpy as np
import pytest

from dali_pipelines.fused import mirrored_crops, normalized_crops

MIRRORED = [False, True]


def guarded(content: np.ndarray) -> tuple[np.ndarray, int]:
    """A copy that ends where its last memory page does, so that reading on would end the process."""
    size = -(-content.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = np.frombuffer(mmap.mmap(-1, size), np.uint8)
    memory[size - content.nbytes :] = content.reshape(-1)
    return memory, int(memory.ctypes.data) + size - content.nbytes


@pytest.mark.parametrize("mirror", MIRRORED)
@pytest.mark.parametrize(("side", "y", "x"), [(224, 0, 0), (256, 0, 0), (256, 32, 32), (256, 0, 32), (256, 7, 19)])
def test_crops_are_numpys_and_nothing_else_is_written(side: int, y: int, x: int, mirror: bool) -> None:
    image = np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8)
    memory, address = guarded(image)
    expected = image[y : y + 224, x : x + 224]
    expected = expected[:, ::-1] if mirror else expected
    padded = np.full((3, 224, 224, 3), 77, np.uint8)
    place = (np.array([value], np.int32) for value in (y, x))
    mirrored_crops(np.array([address]), side, *place, np.array([mirror]), padded[1:2])
    np.testing.assert_array_equal(padded[1], expected)
    assert (padded[0] == 77).all() and (padded[2] == 77).all() and len(memory) % mmap.PAGESIZE == 0


@pytest.mark.parametrize("mean_mirror", MIRRORED)
@pytest.mark.parametrize("mirror", MIRRORED)
def test_mean_and_image_are_mirrored_each_on_its_own(mirror: bool, mean_mirror: bool) -> None:
    random = np.random.default_rng(2)
    image = random.integers(0, 256, (256, 256, 3), np.uint8)
    mean = random.uniform(0, 255, (256, 256, 3)).astype(np.float32)
    memory, address = guarded(image)
    y, x, mean_y, mean_x = (np.array([value], np.int32) for value in (5, 30, 31, 2))
    offset, scale = np.array([[10.5, -20.25, 3.0]], np.float32), np.float32(0.5)
    out = np.full((1, 224, 224, 3), np.nan, np.float32)
    normalized_crops(
        np.array([address]),
        256,
        y,
        x,
        np.array([mirror]),
        np.stack([mean, mean[:, ::-1]]),
        mean_y,
        mean_x,
        np.array([mean_mirror]),
        offset,
        scale,
        out,
    )
    crop, mean_crop = image[5:229, 30:254].astype(np.float64), mean[31:255, 2:226].astype(np.float64)
    crop = crop[:, ::-1] if mirror else crop
    mean_crop = mean_crop[:, ::-1] if mean_mirror else mean_crop
    np.testing.assert_allclose(out[0], (crop - mean_crop + offset[0]) * 0.5, rtol=0, atol=1e-4)
    assert len(memory) >= image.nbytes
