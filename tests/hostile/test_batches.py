"""What a user does with batches, and what happens: they stay as they are, and a fork is refused, not waited for."""

import multiprocessing
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset

from dali_pipelines import Batch, DataConfig, Loader, LoaderError
from sharding import PackOptions, ShardSet, pack

SAMPLES = 40


@pytest.fixture(scope="module", params=["jpeg", "raw"])
def split(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 pictures, each of one gray level (4·number), so that a batch shows by itself whether it is right."""
    folder = tmp_path_factory.mktemp(request.param)
    for number in range(SAMPLES):
        path = folder / "pictures" / "class" / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (256, 256), (4 * number,) * 3).save(path)
    options = PackOptions(
        source=folder / "pictures", out=folder / "shards", split="train", workers=1, encoding=request.param
    )
    return pack(options)[0]


def is_right(batch: Batch, shards: ShardSet) -> bool:
    """Whether each image of an uint8 batch is of the gray level that its key says."""
    expected = [4 * int(shards.locate(sample)[1][-2:]) for sample in batch.ids.tolist()]
    images = batch.images.reshape(len(expected), -1)
    return bool((images == torch.tensor(expected)[:, None]).all())


@pytest.fixture
def shards(split: Path) -> Iterator[ShardSet]:
    with ShardSet.open(split) as opened:
        yield opened


CONFIG = DataConfig(batch_size=4, output="uint8", threads=2)
GRAPH = DataConfig(batch_size=4, output="uint8", threads=2, fused=False)


@pytest.mark.parametrize("config", [CONFIG, GRAPH], ids=["compiled", "DALI graph"])
def test_all_batches_of_an_epoch_in_a_list(shards: ShardSet, config: DataConfig) -> None:
    with Loader(shards, config) as loader:
        batches = list(loader.epoch(0)) + list(loader.epoch(1))
        assert len(batches) == 20 and all(is_right(batch, shards) for batch in batches)
    assert all(is_right(batch, shards) for batch in batches)  # the loader is closed


@pytest.mark.parametrize("config", [CONFIG, GRAPH], ids=["compiled", "DALI graph"])
def test_a_batch_is_held_while_the_next_one_is_asked_for(shards: ShardSet, config: DataConfig) -> None:
    """As Accelerate and Lightning do, to know which batch is the last."""
    seen = 0
    with Loader(shards, config) as loader:
        batches = loader.epoch(0)
        held = next(batches)
        for batch in batches:
            assert is_right(held, shards)
            held, seen = batch, seen + 1
        assert is_right(held, shards) and seen == 9


@pytest.mark.parametrize("config", [CONFIG, GRAPH], ids=["compiled", "DALI graph"])
def test_only_a_slice_of_each_batch_is_kept(shards: ShardSet, config: DataConfig) -> None:
    kept = []
    with Loader(shards, config) as loader:
        for batch in loader.epoch(0):
            kept.append((batch.images[1:3, :, 5:9, ::7], batch.images[1:3, :, 5:9, ::7].clone()))
    assert len(kept) == 10 and all(torch.equal(part, copied) for part, copied in kept)


def report(loader: Loader, results: "multiprocessing.SimpleQueue[str]") -> None:
    try:
        results.put(f"{len(list(loader.epoch(0)))} batches")
    except LoaderError as error:
        results.put(str(error))


@pytest.mark.slow
def test_a_used_loader_in_a_forked_child_says_to_make_it_there(shards: ShardSet) -> None:
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    with Loader(shards, CONFIG) as loader:
        under_way = loader.epoch(0)
        next(under_way)
        child = context.Process(target=report, args=(loader, results))
        child.start()
        child.join(60)
        assert child.exitcode == 0
        assert "make the Loader in the child" in results.get()
        assert sum(len(batch.ids) for batch in under_way) == SAMPLES - 4  # the parent goes on


@pytest.mark.slow
def test_an_epoch_that_a_fork_inherits_says_so_too_and_the_child_ends(python: Path, split: Path) -> None:
    script = f"""
import os, sys
from dali_pipelines import DataConfig, Loader, LoaderError
from sharding import ShardSet
batches = Loader(ShardSet.open({str(split)!r}), DataConfig(batch_size=4, threads=2)).epoch(0)
next(batches)
child = os.fork()
if not child:
    try:
        next(batches)
    except LoaderError as error:
        sys.exit(17 if "make the Loader in the child" in str(error) else 18)
    sys.exit(19)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([python, "-c", script], cwd=root, timeout=120, env={**os.environ, "PYTHONPATH": "."})
    assert done.returncode == 17


class OwnLoader(IterableDataset[tuple[list[int], torch.Tensor]]):
    """A data set that makes its loader in the worker, one rank for each worker."""

    def __init__(self, split: Path) -> None:
        self.split = split

    def __iter__(self) -> Iterator[tuple[list[int], torch.Tensor]]:
        worker = torch.utils.data.get_worker_info()
        assert worker is not None
        with ShardSet.open(self.split) as shards:
            with Loader(shards, CONFIG, worker.id, worker.num_workers) as loader:
                for batch in loader.epoch(0):
                    assert is_right(batch, shards)
                    yield batch.ids.tolist(), batch.images


@pytest.mark.slow
@pytest.mark.parametrize(("method", "workers"), [("fork", 2), ("spawn", 1)])
def test_a_loader_made_in_a_worker_of_pytorchs_dataloader_works(split: Path, method: str, workers: int) -> None:
    ids = []
    how = {"num_workers": workers, "multiprocessing_context": method}
    for samples, images in DataLoader(OwnLoader(split), batch_size=None, **how):
        assert np.ptp(images[0].numpy()) == 0 and len(samples) == CONFIG.batch_size // workers
        ids += samples
    assert sorted(ids) == list(range(SAMPLES))
