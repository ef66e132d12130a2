"""A pair of ranks decodes each sample once, and both compute with all of the pair's samples."""

from pathlib import Path

import pytest
import torch

from dali_pipelines import DataConfig, Loader, Normalize
from sharding import ShardSet
from tests.training.conftest import IMAGES
from tests.training.ranks import start
from training.collectives import gather_pair_images, part_size
from training.mesh import Mesh, make_mesh
from training.pairs import PairedLoader, decoding_coordinates


@pytest.mark.parametrize("samples", [0, 1, 3, 7, 128])
@pytest.mark.parametrize("pairs", [1, 2, 3])
def test_halves_of_a_pair_make_up_its_part(samples: int, pairs: int) -> None:
    sizes = [part_size(samples, part, 2 * pairs) for part in range(2 * pairs)]
    assert sum(sizes) == samples and max(sizes) - min(sizes) <= 1
    for pair in range(pairs):
        assert sizes[2 * pair] + sizes[2 * pair + 1] == part_size(samples, pair, pairs)


def test_decoding_places_are_distinct_and_complete() -> None:
    meshes = [
        Mesh(rank=rank, world=6, data_rank=rank // 2, data_world=3, model_rank=rank % 2, model_world=2)
        for rank in range(6)
    ]
    assert [decoding_coordinates(mesh) for mesh in meshes] == [(rank, 6) for rank in range(6)]
    assert decoding_coordinates(Mesh(rank=2, world=3, data_rank=2, data_world=3)) == (2, 3)


def columns(rank: int, rows: int) -> list[torch.Tensor]:
    """Tensors of several types and shapes, with values that tell rank and row, laid out as loaders leave them."""
    number = torch.arange(rows) + 100 * rank
    wide = (number[:, None] * torch.ones(1, 3) + torch.arange(3)).float()
    images = number[:, None, None, None].expand(rows, 3, 2, 4).to(torch.uint8)
    strided = torch.stack([number, -number], dim=1).int()[:, 0]
    return [images.contiguous(memory_format=torch.channels_last), number, strided, number % 2 == 0, wide / 7]


def swap_and_save(folder: Path) -> int:
    mesh = make_mesh("2", "cpu")
    assert mesh.exchange_group is not None
    for sizes in ((2, 3), (0, 1), (1, 1), (0, 0)):
        own = columns(mesh.rank, sizes[mesh.rank])
        swapped = gather_pair_images(own, sizes, mesh.rank, mesh.exchange_group)
        torch.save(swapped, folder / f"{mesh.rank}-{sizes[0]}-{sizes[1]}.pt")
    with pytest.raises(ValueError, match="should hold 5 of 6 samples"):
        gather_pair_images(columns(mesh.rank, 2), (5, 1) if mesh.rank == 0 else (1, 5), mesh.rank, mesh.exchange_group)
    return 0


def test_swapped_halves_arrive_unchanged_in_rank_order(tmp_path: Path) -> None:
    ranks = start(tmp_path, 2, swap_and_save, tmp_path)
    assert ranks.wait() == [0, 0], ranks.text()
    for sizes in ((2, 3), (0, 1), (1, 1), (0, 0)):
        expected = [torch.cat(pair) for pair in zip(columns(0, sizes[0]), columns(1, sizes[1]))]
        for rank in (0, 1):
            got = torch.load(tmp_path / f"{rank}-{sizes[0]}-{sizes[1]}.pt")
            assert len(got) == len(expected) == 5
            for one, other in zip(got, expected):
                assert one.dtype == other.dtype and torch.equal(one, other)


def feed_and_save(shards: Path, folder: Path, batch_size: int) -> int:
    """An epoch of training batches through a feed; what was decoded here, and what is computed with."""
    mesh = make_mesh("2", "cpu")
    train = ShardSet.open(shards / "train")
    data = DataConfig(recipe="original", batch_size=batch_size, output="uint8", threads=1)
    loader = Loader(train, data, *decoding_coordinates(mesh))
    decoded, whole_epoch = [], loader.epoch

    def watched(epoch: int, start_step: int = 0):  # type: ignore[no-untyped-def]
        for item in whole_epoch(epoch, start_step):
            decoded.append(item.ids.clone())
            yield item

    loader.epoch = watched  # type: ignore[method-assign]
    loader = PairedLoader(loader, Normalize(train.statistics, "original", "cpu"), mesh)
    batches = [(item.images.clone(), item.labels, item.ids, item.samples) for item in loader.epoch(1)]
    torch.save((decoded, batches), folder / f"{mesh.rank}.pt")
    loader.close()
    return 0


@pytest.mark.parametrize(("world", "batch_size"), [(2, 5), (4, 6)])
def test_pair_decodes_each_sample_once_and_computes_with_what_one_process_would(
    world: int, batch_size: int, shards: Path, tmp_path: Path
) -> None:
    ranks = start(tmp_path, world, feed_and_save, shards, tmp_path, batch_size)
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
