"""Every value of every batch against the NumPy reference: both recipes, both encodings, both routes."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from dali_pipelines import Batch, DataConfig, Loader, draw
from dali_pipelines.augmentation import COLOR, Augmentation, RecipeName
from dali_pipelines.keyed import keyed_normals, mixed_key
from sharding import ShardSet, Statistics
from tests.dali_pipelines.numpy_reference import decoded, float32_image, ten_views, uint8_image

GRAY_LEVELS = 1e-3
ENCODINGS = ["jpeg", "raw"]
ROUTES = {"compiled": True, "DALI graph": False}


@pytest.fixture(params=ENCODINGS)
def shards(request: pytest.FixtureRequest) -> ShardSet:
    found: ShardSet = request.getfixturevalue(f"{request.param}_shards")
    return found


@pytest.fixture(params=list(ROUTES))
def fused(request: pytest.FixtureRequest) -> bool:
    return ROUTES[request.param]


def batches(
    shards: ShardSet, statistics: Statistics, config: DataConfig, epoch: int = 0
) -> Iterator[tuple[Batch, list[np.ndarray], Augmentation]]:
    """Each batch with its decoded pictures and the augmentation that its ids and positions call for."""
    with Loader(shards, config, statistics=statistics) as loader:
        for batch in loader.epoch(epoch):
            pictures = [decoded(shards, int(sample)) for sample in batch.ids]
            noise = statistics if config.has_noise(epoch) else None
            ids, positions = batch.ids.numpy(), batch.positions.numpy()
            yield batch, pictures, draw(config.recipe, config.seed, epoch, ids, positions, noise)


def assert_memory(images: torch.Tensor, samples: int, dtype: torch.dtype) -> None:
    assert images.shape == (samples, 3, 224, 224) and images.dtype == dtype
    assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("noise_epochs", [None, 1])
@pytest.mark.parametrize("recipe", ["original", "paper"])
def test_training_batches_are_the_reference(
    shards: ShardSet, statistics: Statistics, fused: bool, recipe: RecipeName, noise_epochs: int | None
) -> None:
    """Epoch 1 has noise, or, with `noise_epochs` 1, none (and for `original` no division)."""
    config = DataConfig(recipe=recipe, batch_size=15, seed=6, fused=fused, noise_epochs=noise_epochs, threads=2)
    compared, mirrored = 0, 0
    for batch, pictures, choice in batches(shards, statistics, config, epoch=1):
        assert_memory(batch.images, 15, torch.float32)
        deviates = keyed_normals(mixed_key(6, 1, COLOR), batch.ids.numpy(), 3)
        for i, picture in enumerate(pictures):
            expected = float32_image(
                picture,
                statistics,
                recipe,
                int(choice.crop_y[i]),
                int(choice.crop_x[i]),
                bool(choice.mirror[i]),
                deviates[i] if noise_epochs is None else None,
            )
            np.testing.assert_allclose(batch.images[i].numpy(), expected, rtol=0, atol=GRAY_LEVELS)
            compared, mirrored = compared + 1, mirrored + int(choice.mirror[i])
    assert compared == 45 and 0 < mirrored < 45


@pytest.mark.parametrize("recipe", ["original", "paper"])
def test_uint8_batches_are_the_crops_exactly(
    shards: ShardSet, statistics: Statistics, fused: bool, recipe: RecipeName
) -> None:
    config = DataConfig(recipe=recipe, batch_size=9, output="uint8", fused=fused, threads=2)
    compared = 0
    for batch, pictures, choice in batches(shards, statistics, config, epoch=2):
        assert_memory(batch.images, 9, torch.uint8)
        for i, picture in enumerate(pictures):
            expected = uint8_image(picture, int(choice.crop_y[i]), int(choice.crop_x[i]), bool(choice.mirror[i]))
            np.testing.assert_array_equal(batch.images[i].numpy(), expected)
            compared += 1
        for field in ("crop_y", "crop_x", "mirror", "rgb_offset"):
            np.testing.assert_array_equal(getattr(batch.augmentation, field), getattr(choice, field))
    assert compared == 45


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("recipe", ["original", "paper"])
def test_evaluation_and_training_without_augmentation_give_the_center_crop(
    shards: ShardSet, statistics: Statistics, fused: bool, recipe: RecipeName, training: bool
) -> None:
    config = DataConfig(recipe=recipe, batch_size=15, training=training, augment=not training, fused=fused, threads=2)
    compared = 0
    for batch, pictures, _ in batches(shards, statistics, config):
        for i, picture in enumerate(pictures):
            expected = float32_image(picture, statistics, recipe, 16, 16, False, None)
            np.testing.assert_allclose(batch.images[i].numpy(), expected, rtol=0, atol=GRAY_LEVELS)
            compared += 1
    assert compared == 45


@pytest.mark.parametrize("output", ["float32", "uint8"])
@pytest.mark.parametrize("recipe", ["original", "paper"])
def test_ten_views_are_five_crops_and_then_the_five_mirrored_of_each_image(
    shards: ShardSet, statistics: Statistics, fused: bool, recipe: RecipeName, output: str
) -> None:
    config = DataConfig(recipe=recipe, batch_size=7, training=False, views=10, output=output, fused=fused, threads=2)
    places = [(0, 0), (0, 32), (16, 16), (32, 0), (32, 32)]
    compared = 0
    for batch, pictures, _ in batches(shards, statistics, config):
        assert_memory(batch.images, len(pictures) * 10, getattr(torch, output))
        assert len(batch.augmentation) == len(pictures) * 10
        views = batch.images.numpy().reshape(-1, 10, 3, 224, 224)
        for i, picture in enumerate(pictures):
            if output == "uint8":
                np.testing.assert_array_equal(views[i], ten_views(picture))
            else:
                for view in range(10):
                    y, x = places[view % 5]
                    expected = float32_image(picture, statistics, recipe, y, x, view >= 5, None)
                    np.testing.assert_allclose(views[i, view], expected, rtol=0, atol=GRAY_LEVELS)
            compared += 1
    assert compared == 45


def test_every_offset_of_a_photograph_is_exact(jpeg_shards: ShardSet, statistics: Statistics) -> None:
    """All 33 rows and columns, at each corner of the range, against Pillow."""
    config = DataConfig(recipe="original", batch_size=32, output="uint8", threads=2)
    seen: set[int] = set()
    with Loader(jpeg_shards, config, statistics=statistics) as loader:
        for epoch in range(60):
            for batch in loader.epoch(epoch):
                choice = batch.augmentation
                y, x = int(choice.crop_y[0]), int(choice.crop_x[0])
                expected = uint8_image(decoded(jpeg_shards, int(batch.ids[0])), y, x, bool(choice.mirror[0]))
                np.testing.assert_array_equal(batch.images[0].numpy(), expected)
                seen |= {y, 100 + x}
    assert {0, 32, 100, 132} <= seen and len(seen) > 50
