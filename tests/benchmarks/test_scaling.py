"""Scaling: train.py's own trainer is what is timed, and efficiency is beside one process."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import data, scaling
from benchmarks.measure import Repeat, Row
from benchmarks.scaling import beside_one, layouts, train_timed
from common.errors import UserError
from training.config import TrainConfig

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("benchmarks")]  # one fork server for all of them


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (1, [(1, 1)]),
        (2, [(1, 1), (2, 1), (2, 2)]),
        (6, [(1, 1), (2, 1), (4, 1), (6, 1), (2, 2), (4, 2), (6, 2)]),
        (3, [(1, 1), (2, 1), (3, 1), (2, 2)]),
    ],
)
def test_processes_double_up_to_the_most(most: int, expected: list[tuple[int, int]]) -> None:
    assert layouts(most) == expected


def test_efficiency_and_wait() -> None:
    def row(*rates: int) -> Row:
        waits = {"waited_seconds": 0.5, "wait_p99_seconds": 0.25}
        return Row(name="", repeats=[Repeat(images=2 * rate, seconds=2, cpu_seconds=1, **waits) for rate in rates])

    found = beside_one(row(30, 45), 4, row(10, 10))
    assert found.note == "efficiency 0.94; 25% of the time waiting for data"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where shards are packed, once for both tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "WORK", tmp_path_factory.mktemp("work"))
        yield data.WORK


def test_quick_run_publishes_one_process_and_a_pair(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling, "BATCHES", ("loaded",))
    monkeypatch.setattr(scaling, "CORES", 2)
    monkeypatch.setattr(scaling, "layouts", lambda most: [(1, 1), (2, 2)])
    scaling.run(quick=True).publish("scaling", True, tmp_path / "out")
    document = json.loads((tmp_path / "out" / "scaling.json").read_text())
    rows = {row["name"]: row for row in document["rows"]}
    assert list(rows) == ["1 process, loaded", "2 processes in pairs, loaded"]
    repeats = [repeat for row in rows.values() for repeat in row["repeats"]]
    assert [repeat["images"] for repeat in repeats] == [8, 16]  # two steps of four images a process
    assert all(repeat["cpu_seconds"] > 0 and repeat["peak_bytes"] > 1e8 for repeat in repeats)
    assert rows["1 process, loaded"]["note"].startswith("efficiency 1.00; ")
    assert all(re.search(r"; \d{1,2}% of the time waiting for data$", row["note"]) for row in rows.values())


def test_synthetic_batches_are_not_waited_for_and_what_fails_is_named(work: Path) -> None:
    with data.shards(48) as shards:
        config = TrainConfig(shards=shards.path.parent, run_dir=Path(), batch_size=4, width=1 / 16, threads=1)
        repeat = train_timed(1, 1, config, synthetic=True)
    assert repeat.images == 4 and repeat.waited_seconds == repeat.wait_p99_seconds == 0 and repeat.cpu_seconds > 0
    with pytest.raises(UserError, match=r"rank 0 of 1: .*/nowhere has no train/"):
        train_timed(1, 1, replace(config, shards=Path("/nowhere")))
