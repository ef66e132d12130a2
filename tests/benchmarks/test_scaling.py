"""Scaling: train.py's own trainer is what is timed, and efficiency is beside one process."""

import json
from pathlib import Path

import pytest

from benchmarks import data, scaling
from benchmarks.measure import Repeat, Row, Spread
from benchmarks.processes import WorkerError
from benchmarks.scaling import beside_one, layouts
from benchmarks.timed_training import command_line, torchrun, train_timed

pytestmark = pytest.mark.slow


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
    def row(*rates: float) -> Row:
        return Row(name="", images_per_second=Spread.of(rates))

    repeats = [Repeat(images=9, seconds=2, cpu_seconds=1, waits_seconds=(0.0, 0.25, 0.25))] * 2
    found = beside_one(row(30, 45), 4, row(10, 10), repeats)
    assert found.note == "efficiency 0.94; 25% of the time waiting for data"


def test_options_are_arguments() -> None:
    options = {"batch_size": 8, "compile": True, "deterministic": False, "threads": None}
    assert command_line(options) == ["--batch-size=8", "--compile"]


def test_a_training_that_fails_is_named_with_its_error() -> None:
    with pytest.raises(WorkerError, match=r"train.py --shards=/nowhere .*: status 1: .*/nowhere has no train/"):
        torchrun(1, ["train.py", *command_line({"shards": "/nowhere", "run_dir": "/nowhere"})])


def test_quick_run_publishes_one_process_and_a_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "WORK", tmp_path / "work")
    monkeypatch.setattr(scaling, "BATCHES", ("loaded",))
    monkeypatch.setattr(scaling, "layouts", lambda most: [(1, 1), (2, 2)])
    scaling.run(quick=True, out=tmp_path / "out")
    document = json.loads((tmp_path / "out" / "scaling.json").read_text())
    rows = {row["name"]: row for row in document["rows"]}
    assert list(rows) == ["1 process, loaded", "2 processes in pairs, loaded"]
    assert [row["images"] for row in rows.values()] == [8, 16]  # two steps of four images a process
    assert all(row["images_per_cpu_second"]["median"] > 0 and row["peak_bytes"] > 1e8 for row in rows.values())
    assert rows["1 process, loaded"]["details"]["efficiency"] == 1.0
    assert all(0 <= row["details"]["data_wait"] < 1 for row in rows.values())


def test_synthetic_batches_are_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "WORK", tmp_path / "work")
    with data.shards(12) as shards:
        options = {"shards": shards.path.parent, "batch_size": 4, "width": 1 / 16, "threads": 1}
        repeat = train_timed(1, "synthetic", 1, options)
    assert repeat.images == 4 and repeat.waits_seconds == (0.0,) and repeat.cpu_seconds > 0
