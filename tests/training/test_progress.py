"""Progress and checkpoints by the clock: what is said, when a checkpoint is due, and a GPU's lag."""

import json
import logging
from pathlib import Path

import pytest
import torch

from model import make_schedule
from tests.training.conftest import Arguments
from tests.training.ranks import start, train
from training.checkpoints import CheckpointManager
from training.config import TrainConfig
from training.mesh import Mesh
from training.progress import NotFiniteError, Progress, Step
from training.run_folder import RunFolder
from training.step import set_up_torch


def queued(number: int, loss: float) -> Step:
    totals = torch.tensor([4 * loss, 2.0, 1.0], dtype=torch.float64)
    return Step(step=number, epoch=0, samples=4, rate=0.01, wait_seconds=0.0, damaged_images=2, totals=totals)


def report_next(progress: Progress, flush: bool = False) -> None:
    """Report the step that is ready, as a trainer of one rank does."""
    step = progress.pop_ready(flush)
    if step is not None:
        progress.report(step, progress.own_sums(step))


def logged(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_on_a_gpu_a_step_is_read_when_the_next_has_been_queued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one step of lag the log never waits for the GPU; a flush reads what is left."""
    happened: list[str] = []

    class Event:
        """Stands for a GPU's: recorded behind a step, done when asked twice in a row."""

        def record(self) -> None:
            happened.append("record")

        def query(self) -> bool:
            happened.append("query")
            return happened[-2] == "query"

    monkeypatch.setattr(torch.cuda, "Event", Event)
    mesh = Mesh(device=torch.device("cuda"))
    folder = RunFolder(tmp_path, 0, 0)
    progress = Progress(mesh, folder, 0, 9, 1)
    monkeypatch.setattr("training.progress.memory_bytes", lambda _device: 0)
    for number, known in ((1, []), (2, [1.0]), (3, [1.0, 2.0])):
        progress.add(queued(number, float(number)))
        report_next(progress)
        assert logged(tmp_path) == known
    report_next(progress, flush=True)
    assert logged(tmp_path) == [1.0, 2.0, 3.0]
    assert '"damaged_images": 2' in (tmp_path / "metrics.jsonl").read_text()
    assert happened == ["record"] * 2 + ["query"] * 2 + ["record"] + ["query"] * 3
    progress.add(queued(4, float("nan")))
    with pytest.raises(NotFiniteError, match="the loss of step 4 is nan"):
        report_next(progress, flush=True)
    progress.close()
    folder.close()


def test_without_a_terminal_a_plain_line_comes_every_half_minute_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = [0.0]
    monkeypatch.setattr("training.progress.time.monotonic", lambda: clock[0])
    folder = RunFolder(tmp_path, 100, 0)
    progress = Progress(Mesh(), folder, 100, 109, 1)
    with caplog.at_level(logging.INFO):
        for number in range(101, 110):
            clock[0] += 12
            progress.add(queued(number, 1.0))
            report_next(progress)
    progress.close()
    folder.close()
    line = "epoch 1, loss 1.000, error 50.0%, 0 images/s, data wait 0%"
    assert [record.getMessage() for record in caplog.records] == [
        f"step 103 of 109: {line}, 01:12 left without validation",
        f"step 106 of 109: {line}, 00:36 left without validation",
        f"step 109 of 109: {line}",
    ]


@pytest.mark.parametrize(("age_minutes", "rank", "is_due"), [(9.9, 0, False), (10.1, 0, True), (10.1, 1, False)])
def test_only_the_clock_of_rank_0_makes_a_checkpoint_due(age_minutes: float, rank: int, is_due: bool) -> None:
    mesh = Mesh(rank=rank, world=2)
    network = type("Network", (), {"mesh": mesh})()
    config = TrainConfig(shards=Path(), run_dir=Path(), checkpoint_minutes=10.0)
    checkpoints = CheckpointManager(config, {}, network, make_schedule("paper", 1))
    checkpoints.saved_at -= 60 * age_minutes
    assert checkpoints.is_due() == is_due


def deterministic(arguments: list[str]) -> int:
    """A training with --deterministic; afterwards torch refuses what does not repeat itself."""
    status = train(arguments)
    assert torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.benchmark
    return status


def test_deterministic_and_devices(arguments: Arguments, tmp_path: Path) -> None:
    run = start(tmp_path, 1, deterministic, arguments(tmp_path / "run", "--deterministic", "--max-steps", "1"))
    assert run.wait() == [0], run.text()
    config = TrainConfig(shards=tmp_path, run_dir=tmp_path, threads=1)
    assert set_up_torch(config) == ("cuda" if torch.cuda.is_available() else "cpu")
    assert torch.get_num_threads() == 1 and torch.backends.cudnn.benchmark
