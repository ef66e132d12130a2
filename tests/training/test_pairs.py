"""A pair of ranks decodes each sample once, and both compute with all of the pair's samples."""

from pathlib import Path

import pytest
import torch

from dali_pipelines import DataConfig, Loader, Normalize
from dali_pipelines.order import slice_range
from sharding import ShardSet
from tests.training.conftest import IMAGES
from tests.training.ranks import start
from training.mesh import Mesh, make_mesh
from training.pairs import PairedLoader, decoding_coordinates, gather_pair_images

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("samples", [0, 1, 3, 7, 128])
@pytest.mark.parametrize("pairs", [1, 2, 3])
def test_halves_of_a_pair_make_up_its_slice(samples: int, pairs: int) -> None:
    halves = [slice_range(samples, half, 2 * pairs) for half in range(2 * pairs)]
    sizes = [half.stop - half.start for half in halves]
    assert sum(sizes) == samples and max(sizes) - min(sizes) <= 1
    for pair in range(pairs):
        assert slice_range(samples, pair, pairs) == slice(halves[2 * pair].start, halves[2 * pair + 1].stop)


def test_decoding_coordinates_are_distinct_and_complete() -> None:
    meshes = [
        Mesh(rank=rank, world=6, data_rank=rank // 2, data_world=3, model_rank=rank % 2, model_world=2)
        for rank in range(6)
    ]
    assert [decoding_coordinates(mesh) for mesh in meshes] == [(rank, 6) for rank in range(6)]
    assert decoding_coordinates(Mesh(rank=2, world=3, data_rank=2, data_world=3)) == (2, 3)


SIZES = ((2, 3), (0, 1), (1, 1), (0, 0))


def numbered_images(rank: int, rows: int) -> torch.Tensor:
    """uint8 [rows, 3, 224, 224] in channels-last memory, values that tell rank, row, channel, line and column."""
    number = torch.arange(rows * 3 * 224 * 224).view(rows, 3, 224, 224) * (2 * rank + 7) // 11
    return (number % 256).to(torch.uint8).contiguous(memory_format=torch.channels_last)


def gather_and_save(folder: Path) -> int:
    mesh = make_mesh("2", "cpu")
    for sizes in SIZES:
        gathered = gather_pair_images(numbered_images(mesh.rank, sizes[mesh.rank]), sizes, mesh)
        assert gathered.is_contiguous(memory_format=torch.channels_last)
        torch.save(gathered, folder / f"{mesh.rank}-{sizes[0]}-{sizes[1]}.pt")
    with pytest.raises(ValueError, match="should hold 5 of 6 samples"):
        gather_pair_images(numbered_images(mesh.rank, 2), (5, 1) if mesh.rank == 0 else (1, 5), mesh)
    return 0


def test_gathered_images_arrive_unchanged_in_rank_order(tmp_path: Path) -> None:
    ranks = start(tmp_path, 2, gather_and_save, tmp_path)
    assert ranks.wait() == [0, 0], ranks.text()
    for sizes in SIZES:
        expected = torch.cat([numbered_images(0, sizes[0]), numbered_images(1, sizes[1])])
        for rank in (0, 1):
            gathered = torch.load(tmp_path / f"{rank}-{sizes[0]}-{sizes[1]}.pt")
            assert gathered.dtype == torch.uint8 and torch.equal(gathered, expected)


def load_and_save(shards: Path, folder: Path, batch_size: int) -> int:
    """An epoch of training batches: the ids decoded here, and the batches computed with."""
    mesh = make_mesh("2", "cpu")
    train = ShardSet.open(shards / "train")
    data = DataConfig(recipe="original", batch_size=batch_size, output="uint8", threads=1)
    loader = Loader(train, data, *decoding_coordinates(mesh))
    decoded, epoch_of = [], loader.epoch

    def watched(epoch: int, start_step: int = 0):  # type: ignore[no-untyped-def]
        for item in epoch_of(epoch, start_step):
            decoded.append(item.ids.clone())
            yield item

    loader.epoch = watched  # type: ignore[method-assign]
    paired = PairedLoader(loader, Normalize(train.statistics, "original", "cpu"), mesh)
    batches = [(item.images.clone(), item.labels, item.ids, item.samples) for item in paired.epoch(1)]
    torch.save((decoded, batches), folder / f"{mesh.rank}.pt")
    paired.close()
    return 0


@pytest.mark.parametrize(("world", "batch_size"), [(2, 5), (4, 6)])
def test_pair_decodes_each_sample_once_and_computes_with_what_one_process_would(
    world: int, batch_size: int, shards: Path, tmp_path: Path
) -> None:
    ranks = start(tmp_path, world, load_and_save, shards, tmp_path, batch_size)
    assert ranks.wait() == [0] * world, ranks.text()
    saved = [torch.load(tmp_path / f"{rank}.pt") for rank in range(world)]
    steps = IMAGES // batch_size
    everything = torch.cat([ids for decoded, _ in saved for ids in decoded])
    assert len(everything) == len(everything.unique()) == steps * batch_size
    train = ShardSet.open(shards / "train")
    with Loader(train, DataConfig(recipe="original", batch_size=batch_size, threads=1)) as loader:
        for step, right in enumerate(loader.epoch(1)):
            for rank in range(world):
                images, labels, ids, samples = saved[rank][1][step]
                pair, pairs = rank // 2, world // 2
                part = slice(pair * batch_size // pairs, (pair + 1) * batch_size // pairs)
                assert samples == batch_size
                assert torch.equal(ids, right.ids[part]) and torch.equal(labels, right.labels[part])
                assert torch.allclose(images, right.images[part], rtol=0, atol=1e-4)
        assert step == steps - 1
