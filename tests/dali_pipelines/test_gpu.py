"""On a GPU (`make test-gpu`): its batches against the CPU's."""

import pytest
import torch

from dali_pipelines import DataConfig, Loader, Normalize
from dali_pipelines.augmentation import RecipeName
from sharding import ShardSet, Statistics

GRAY_LEVELS = 2.0  # the GPU's decoder rounds elsewhere; a crop off by one pixel is further away on every photograph

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def kept(
    shards: ShardSet, statistics: Statistics, config: DataConfig
) -> list[tuple[list[int], list[int], list[int], torch.Tensor]]:
    with Loader(shards, config, statistics=statistics) as loader:
        batches = []
        for batch in loader.epoch(1):
            assert (batch.images.device.type, batch.labels.device.type) == (torch.device(config.device).type, "cpu")
            assert batch.images.is_contiguous(memory_format=torch.channels_last)
            choice = batch.augmentation
            crops = choice.crop_y.tolist() + choice.crop_x.tolist()
            batches.append((batch.ids.tolist(), crops, choice.mirror.tolist(), batch.images.cpu().float()))
        return batches


@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
@pytest.mark.parametrize("output", ["float32", "uint8"])
@pytest.mark.parametrize("views", [1, 10])
@pytest.mark.parametrize("recipe", ["original", "paper"])
def test_the_gpus_batches_are_the_cpus(
    request: pytest.FixtureRequest, statistics: Statistics, recipe: RecipeName, views: int, output: str, encoding: str
) -> None:
    shards = request.getfixturevalue(f"{encoding}_shards")
    options = {"recipe": recipe, "batch_size": 9, "views": views, "training": views == 1, "output": output}
    cpu, gpu = (kept(shards, statistics, DataConfig(device=device, **options)) for device in ("cpu", "cuda"))
    assert len(cpu) == len(gpu) == 5
    for (*choices, images), (*gpu_choices, gpu_images) in zip(cpu, gpu):
        assert choices == gpu_choices
        differences = (images - gpu_images).abs().mean(dim=(1, 2, 3))
        assert float(differences.max()) < (GRAY_LEVELS if encoding == "jpeg" else 1e-3)


@pytest.mark.parametrize("recipe", ["original", "paper"])
def test_uint8_crops_standardized_on_arrival_are_the_cpus_batches(
    jpeg_shards: ShardSet, statistics: Statistics, recipe: RecipeName
) -> None:
    config = DataConfig(recipe=recipe, batch_size=9)
    travelling = DataConfig(recipe=recipe, batch_size=9, output="uint8")
    normalize = Normalize(statistics, recipe, "cuda")
    compared = 0
    with (
        Loader(jpeg_shards, config, statistics=statistics) as loader,
        Loader(jpeg_shards, travelling, statistics=statistics) as crops,
    ):
        for batch, crop in zip(loader.epoch(0), crops.epoch(0)):
            images = normalize(crop.images, crop.augmentation)
            torch.testing.assert_close(images.cpu(), batch.images, rtol=0, atol=1e-3)
            compared += 1
    assert compared == 5


def test_a_batch_stays_whole_while_the_next_ones_are_made(jpeg_shards: ShardSet, statistics: Statistics) -> None:
    config = DataConfig(batch_size=9, device="cuda", prefetch=2)
    with Loader(jpeg_shards, config, statistics=statistics) as loader:
        compared = 0
        for batch in loader.epoch(0):
            before = batch.images.clone()
            torch.cuda.synchronize()
            for _ in range(20):  # time for DALI to fill what it has free
                before = before.clone()
            torch.cuda.synchronize()
            assert bool((batch.images == before).all())
            compared += 1
    assert compared == 5
