"""`Normalize` on travelled uint8 crops: equal to what the loader standardizes itself, and to NumPy."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dali_pipelines import DataConfig, Loader, Normalize
from dali_pipelines.augmentation import RecipeName, draw
from sharding import ShardSet, Statistics
from tests.dali_pipelines.numpy_reference import crop_of


@pytest.fixture(params=["compiled", "PyTorch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways on the CPU; a GPU goes the second."""
    if request.param == "PyTorch":
        monkeypatch.setattr(Normalize, "by_compiled_pass", Normalize.by_torch)
    name: str = request.param
    return name


@pytest.mark.parametrize(
    ("recipe", "noise_epochs", "views"),
    [("original", None, 1), ("original", 0, 1), ("paper", None, 1), ("paper", 0, 1), ("paper", None, 10)],
)
def test_it_gives_what_the_loader_gives_as_float32(
    jpeg_shards: ShardSet, statistics: Statistics, way: str, recipe: RecipeName, noise_epochs: int | None, views: int
) -> None:
    config = DataConfig(
        recipe=recipe, batch_size=9, noise_epochs=noise_epochs, views=views, training=views == 1, threads=1
    )
    normalize = Normalize(statistics, recipe, "cpu")
    compared = 0
    with (
        Loader(jpeg_shards, config, statistics=statistics) as loader,
        Loader(jpeg_shards, replace(config, output="uint8"), statistics=statistics) as travelling,
    ):
        for batch, crops in zip(loader.epoch(1), travelling.epoch(1)):
            images = normalize(crops.images, crops.augmentation)
            assert images.is_contiguous(memory_format=torch.channels_last) and images.dtype == torch.float32
            torch.testing.assert_close(images, batch.images, rtol=0, atol=1e-4)
            compared += 1
            if views == 10:
                break
    assert compared == (5 if views == 1 else 1)


@pytest.mark.parametrize("recipe", ["original", "paper"])
def test_without_noise_it_only_subtracts_the_mean(way: str, recipe: RecipeName, statistics: Statistics) -> None:
    ids = np.arange(32, 48)
    choice = draw(recipe, 3, 0, ids, ids * 32, statistics)
    crops = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (16, 3, 224, 224), np.uint8))
    choice = replace(choice, rgb_offset=np.zeros_like(choice.rgb_offset), divisor=1.0)
    images = Normalize(statistics, recipe, "cpu")(crops, choice).numpy()
    assert 0 < choice.mirror.sum() < 16
    for i in range(16):
        mean = statistics.mean_image[16:240, 16:240]
        if recipe == "paper":
            mean = crop_of(statistics.mean_image, int(choice.crop_y[i]), int(choice.crop_x[i]), bool(choice.mirror[i]))
        np.testing.assert_allclose(images[i], crops[i].numpy() - mean.transpose(2, 0, 1), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("images", "got"),
    [
        (torch.zeros(2, 3, 224, 224), r"torch.float32 \[2, 3, 224, 224\]"),
        (torch.zeros(2, 224, 224, 3, dtype=torch.uint8), r"torch.uint8 \[2, 224, 224, 3\]"),
        (torch.zeros(3, 3, 224, 224, dtype=torch.uint8), r"torch.uint8 \[3, 3, 224, 224\]"),
    ],
)
def test_other_images_are_refused(statistics: Statistics, images: torch.Tensor, got: str) -> None:
    ids = np.arange(2)
    with pytest.raises(ValueError, match=rf"images {got}: expected torch.uint8 \[2, 3, 224, 224\]"):
        Normalize(statistics, "paper", "cpu")(images, draw("paper", 0, 0, ids, ids))
