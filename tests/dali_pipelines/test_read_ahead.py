"""Hints to the system: what is asked for early, what is let go, and that it is the right bytes."""

import mmap
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dali_pipelines import DataConfig, Loader
from dali_pipelines.order import EpochOrder
from sharding import ShardSet, Statistics
from tests.dali_pipelines.repeated import repeated


@pytest.mark.parametrize("window", [None, 2])
def test_what_has_been_read_is_unmapped(
    jpeg_folder: Path, tmp_path: Path, statistics: Statistics, monkeypatch: pytest.MonkeyPatch, window: int | None
) -> None:
    """Of 450 samples, at most the part between two releases (None: 60 samples; a window: its own) stays mapped."""
    if window is None:
        monkeypatch.setattr("dali_pipelines.order.RELEASE_SAMPLES", 60)
    folder = repeated(jpeg_folder, tmp_path / "train", 10)
    released: list[int] = []
    release = ShardSet.release

    def recorded(self: ShardSet, shard: int) -> None:
        released.append(shard)
        release(self, shard)

    monkeypatch.setattr(ShardSet, "release", recorded)
    config = DataConfig(batch_size=15, threads=1, output="uint8", window=window)
    with ShardSet.open(folder) as shards, Loader(shards, config, statistics=statistics) as loader:
        assert sum(len(batch.ids) for batch in loader.epoch(0)) == 450
        if window is None:
            assert released == list(range(50)) * 7  # 450 samples, every 60
        else:
            groups = EpochOrder(shards.shard_sizes, 0, 0, 2).shard_groups()
            assert released == np.concatenate(groups)[: len(released)].tolist()
            assert len(released) in (23 * 2, 24 * 2)  # all windows but those that the last batch lies in


def test_the_next_window_is_asked_for_while_one_is_read(
    jpeg_folder: Path, tmp_path: Path, statistics: Statistics, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = repeated(jpeg_folder, tmp_path / "train", 2)
    asked: list[int] = []
    three_asked = threading.Event()

    def prefetch(self: ShardSet, shard: int) -> None:
        asked.append(shard)
        if len(asked) == 3:
            three_asked.set()

    monkeypatch.setattr(ShardSet, "prefetch", prefetch)
    config = DataConfig(batch_size=5, threads=1, output="uint8", window=3, prefetch=1)
    with ShardSet.open(folder) as shards, Loader(shards, config, statistics=statistics) as loader:
        order = np.concatenate(EpochOrder(shards.shard_sizes, 0, 2, 3).shard_groups()).tolist()
        batches = loader.epoch(2)
        next(batches)
        assert three_asked.wait(60)
        batches.close()
        assert asked == order[: len(asked)]
        asked.clear()
        assert sum(len(batch.ids) for batch in loader.epoch(2)) == 90
        assert asked == order
        asked.clear()
        assert len(list(loader.epoch(2, start_step=17))) == 1  # in the last window: nothing before it is asked for
        assert asked == order[9:]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_global_permutation_asks_for_each_sample_once_and_before_it_reads_it(
    jpeg_folder: Path, statistics: Statistics, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    calls: list[tuple[str, list[int]]] = []
    ask, read = ShardSet.ask_for, ShardSet.addresses

    def asked(self: ShardSet, ids: np.ndarray) -> None:
        calls.append(("ask", ids.tolist()))
        ask(self, ids)

    def images(self: ShardSet, ids: np.ndarray) -> list[np.ndarray]:
        calls.append(("read", ids.tolist()))
        return read(self, ids)

    monkeypatch.setattr(ShardSet, "ask_for", asked)
    monkeypatch.setattr(ShardSet, "addresses", images)
    with ShardSet.open(jpeg_folder) as shards:
        with Loader(shards, DataConfig(batch_size=10, threads=1), rank, 2, statistics) as loader:
            order = [batch.ids.tolist() for batch in loader.epoch(0)]
    assert len(order) == 4 and {len(ids) for ids in order} == {5}
    assert [ids for call, ids in calls if call == "read"] == order
    first, *rest = [ids for call, ids in calls if call == "ask"]
    assert first == order[0] and rest[:3] == order[1:]
    assert [call for call, _ in calls] == ["ask", "ask", "read", "ask", "read", "ask", "read", "ask", "read"]


class Recorded:
    """A mapped tar that writes down what it is advised, and is what it was otherwise."""

    def __init__(self, tar: mmap.mmap) -> None:
        self.tar, self.advice = tar, list[tuple[int, ...]]()

    def madvise(self, *advice: int) -> None:
        self.advice.append(advice)
        self.tar.madvise(*advice)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tar, name)


def test_asking_for_a_sample_covers_its_picture_from_a_page_on_and_nothing_behind_it(jpeg_folder: Path) -> None:
    with ShardSet.open(jpeg_folder) as shards:
        shards.read_scattered()
        pictures = shards.images([12, 17])
        assert shards.labels([12, 17]).shape == (2,)
        content = (jpeg_folder / "train-000001.tar").read_bytes()
        recorded: Any = Recorded(shards._maps[1])
        shards._maps[1] = recorded
        shards.ask_for(np.array([12, 17]))
        assert len(recorded.advice) == 2
        for picture, (advice, first, size) in zip(pictures, recorded.advice):
            start = content.index(picture.tobytes())
            assert advice == mmap.MADV_WILLNEED and first % mmap.PAGESIZE == 0
            assert start - mmap.PAGESIZE < first <= start and first + size == start + picture.nbytes
        recorded.advice.clear()
        shards.read_scattered()
        assert recorded.advice == [(mmap.MADV_RANDOM,)]
        del shards._maps[1]
