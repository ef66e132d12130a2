"""Cold reads see each sample once and read ahead; simulated splits are splits; growth is measured as it is."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import cold, data
from benchmarks.cold import batches, drop, exponent, growth_row, read, windowed
from benchmarks.measure import Repeat
from benchmarks.simulated import BATCH, Cost, cost, simulate
from dali_pipelines import epoch_order
from sharding import ShardSet

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate(tmp_path_factory.mktemp("simulated") / "train", 3, 500)


def test_a_simulated_split_opens_and_labels_its_samples(split: Path) -> None:
    with ShardSet.open(split) as shards:
        assert len(shards) == 1500 and list(shards.shard_sizes) == [500, 500, 500]
        assert shards.labels([0, 499, 500, 1499]).tolist() == [0, 499, 0, 499]
        assert shards.images([700])[0].tobytes() == b"\xff" * 16


def test_windowed_reading_is_the_windowed_order_and_asks_for_the_next_shard(
    split: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ShardSet.open(split) as shards:
        asked: list[int] = []
        monkeypatch.setattr(shards, "prefetch", asked.append)
        seen, begun = [], []
        for ids in windowed(shards):
            seen.append(ids)
            begun.append((int(ids[0]) // 500, tuple(asked)))
        np.testing.assert_array_equal(np.concatenate(seen), epoch_order(shards.shard_sizes, 0, 0, 1))
        assert max(len(ids) for ids in seen) == BATCH
        turns = list(dict.fromkeys(shard for shard, _ in begun))
        assert sorted(turns) == [0, 1, 2]
        first_of = dict(reversed(begun))
        assert first_of[turns[0]] == (turns[0], turns[1])
        assert set(first_of[turns[1]]) == set(turns)


def test_a_repeat_reads_the_first_quarter(split: Path) -> None:
    with ShardSet.open(split) as shards:
        from_disk: list[float] = []
        order = np.arange(len(shards))
        repeat = read(shards, lambda: batches(order), True, from_disk)
        assert repeat.images == 3 * BATCH  # the first whole batches that hold 1500 / 4
        assert len(from_disk) == 1 and from_disk[0] >= 0


def test_a_warm_repeat_takes_nothing_from_the_disk(split: Path) -> None:
    with ShardSet.open(split) as shards:
        from_disk: list[float] = []
        assert read(shards, lambda: batches(np.arange(len(shards))), False, from_disk).images == 3 * BATCH
        assert from_disk[0] < 0.02


def test_dropping_leaves_the_bytes_as_they_were(split: Path) -> None:
    with ShardSet.open(split) as shards:
        before = (split / shards.shard_names[0]).read_bytes()
        drop(shards)
        assert (split / shards.shard_names[0]).read_bytes() == before


def test_cost_has_each_operation_each_repeat(split: Path) -> None:
    found = cost(split, steps=3, repeats=2)
    assert found.samples == 1500
    assert {name: [repeat.images for repeat in repeats] for name, repeats in found.repeats.items()} == {
        "open": [1500, 1500],
        "order": [1500, 1500],
        "step through": [3 * BATCH, 3 * BATCH],
    }
    assert set(found.memory_bytes) == set(found.repeats)


def test_no_exponent_of_nothing() -> None:
    spent = [Repeat(images=1, seconds=1, cpu_seconds=1)]
    costs = [Cost(samples=count, repeats={"open": spent}, memory_bytes={"open": count - 10}) for count in (10, 20)]
    assert growth_row(costs, 1, "open").note.endswith("time ∝ samples^1.00")


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_exponent_of_known_growth(power: float) -> None:
    samples = [13_000, 130_000, 1_280_000]
    assert exponent(samples, [3.0 * count**power for count in samples]) == pytest.approx(power)


def test_the_largest_size_tells_how_time_and_memory_grow() -> None:
    costs = [
        Cost(
            samples=count,
            repeats={"open": [Repeat(images=count, seconds=1, cpu_seconds=count**2 / 1e8)] * 3},
            memory_bytes={"open": count * 10},
        )
        for count in (1000, 10_000)
    ]
    assert growth_row(costs, 0, "open").note == "0.010 s, +0.0 MB"
    largest = growth_row(costs, 1, "open")
    assert largest.name == "open: 10,000 samples"
    assert largest.note == "1.000 s, +0.1 MB; time ∝ samples^2.00, memory ∝ samples^1.00"


def test_quick_run_publishes_reading_and_growth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "WORK", tmp_path / "work")
    monkeypatch.setattr(cold, "SHARDS", ((1, 200), (2, 400)))
    cold.run(quick=True, out=tmp_path / "out")
    document = json.loads((tmp_path / "out" / "cold.json").read_text())
    names = [row["name"] for row in document["rows"]]
    assert [name for name in names if name.startswith("read")] == [
        "read in sequence, warm",
        "read in sequence, cold",
        "read in a window of 1 shard, cold",
        "read in global order, mapped, cold",
        "read in global order, as the loader does, cold",
    ]
    assert names[5:] == [
        f"{work}: {samples} samples" for work in ("open", "order", "step through") for samples in (200, 800)
    ]
    assert all(row["images"] == BATCH for row in document["rows"][:5])
    assert all("× the bytes used" in row["note"] for row in document["rows"][:5])
    assert all("time ∝ samples^" in row["note"] for row in document["rows"][6::2])
    assert not list((tmp_path / "work").glob("simulated-*"))
