"""Cold reads see each sample once and read ahead; simulated splits are splits; growth is measured as it is."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks import cold, data
from benchmarks.cold import BATCH, ORDERS, SimulatedEpochs, batches, drop, read, simulate, with_growth
from benchmarks.measure import MINIMUM_REPEATS, Repeat, Row
from dali_pipelines import EpochOrder
from sharding import ShardSet

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("benchmarks")]  # one fork server for all of them


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate(tmp_path_factory.mktemp("simulated") / "train", 3, 500)


def test_a_simulated_split_opens_and_labels_its_samples(split: Path) -> None:
    with ShardSet.open(split) as shards:
        assert len(shards) == 1500 and list(shards.shard_sizes) == [500, 500, 500]
        assert shards.labels([0, 499, 500, 1499]).tolist() == [0, 499, 0, 499]
        assert shards.images([700])[0].tobytes() == b"\xff" * 16


@pytest.mark.parametrize("hints", [False, True])
@pytest.mark.parametrize("window", [None, 1])
def test_batches_are_the_first_quarter_of_the_order(split: Path, window: int | None, hints: bool) -> None:
    with ShardSet.open(split) as shards:
        ids = np.concatenate(list(batches(shards, False, window, hints)))
        np.testing.assert_array_equal(ids, EpochOrder(shards.shard_sizes, 0, 0, window)[np.arange(3 * BATCH)])


@pytest.mark.parametrize("name", ORDERS)
def test_a_repeat_reads_the_first_quarter(split: Path, name: str) -> None:
    from_disk: list[float] = []
    assert read(split, *ORDERS[name], from_disk).images == 3 * BATCH  # the whole batches that begin in 1500 / 4
    assert len(from_disk) == 1 and from_disk[0] >= 0


def test_dropping_leaves_the_bytes_as_they_were(split: Path) -> None:
    with ShardSet.open(split) as shards:
        before = (split / shards.shard_names[0]).read_bytes()
        drop(shards)
        assert (split / shards.shard_names[0]).read_bytes() == before


def test_each_operation_is_repeated_and_says_for_how_many_samples(split: Path) -> None:
    rows = SimulatedEpochs(split, steps=3).measure()
    assert {name: [repeat.images for repeat in row.repeats] for name, row in rows.items()} == {
        "open": [1500] * MINIMUM_REPEATS,
        "order": [1500] * MINIMUM_REPEATS,
        "step through": [3 * BATCH] * MINIMUM_REPEATS,
    }
    assert all(re.fullmatch(r"[+-]\d+\.\d MB", row.note) for row in rows.values())


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_largest_size_tells_how_time_grows(power: float) -> None:
    samples = [1000, 10_000, 100_000]
    rows = [
        Row(name="", note="+1.0 MB", repeats=[Repeat(images=count, seconds=1, cpu_seconds=count**power / 1e6)] * 3)
        for count in samples
    ]
    notes = [f"{count**power / 1e3:.3g} ms, +1.0 MB" for count in samples]
    found = [row.note for row in with_growth(rows, samples)]
    assert found == [*notes[:2], f"{notes[2]}; time ∝ samples^{power:.2f}"]


def test_quick_run_publishes_reading_and_growth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "WORK", tmp_path / "work")
    monkeypatch.setattr(cold, "SHARDS", (1, 2))
    monkeypatch.setattr(cold, "SAMPLES_PER_SHARD", 400)
    cold.run(quick=True).publish("cold", True, tmp_path / "out")
    document = json.loads((tmp_path / "out" / "cold.json").read_text())
    names = [row["name"] for row in document["rows"]]
    assert names[:4] == list(ORDERS)
    assert names[4:] == [
        f"{work}: {samples} samples" for work in ("open", "order", "step through") for samples in (400, 800)
    ]
    assert all(repeat["images"] == BATCH for row in document["rows"][:4] for repeat in row["repeats"])
    assert all("× the bytes used" in row["note"] for row in document["rows"][:4])
    assert all("time ∝ samples^" in row["note"] for row in document["rows"][5::2])
    assert not list((tmp_path / "work").glob("simulated-*"))
