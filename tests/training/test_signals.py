"""What ends a run before its time: signals, ranks that die or hang, losses that are not finite, full disks."""

import re
import resource
import signal
import threading
from pathlib import Path

import pytest
import torch

import model.schedule
from model import ModelConfig, make_schedule
from model.checkpoint import load_checkpoint
from tests.training.conftest import STEPS_PER_EPOCH, Arguments
from tests.training.ranks import start, train, train_and_signal
from train import main
from training.checkpoints import CheckpointManager, TrainState
from training.config import TrainConfig
from training.mesh import LostRankError, make_mesh, noticing_lost_ranks
from training.progress import Progress, Step
from training.step import ParallelNetwork
from training.trainer import stop_signals

pytestmark = pytest.mark.slow

MINUTE = 60.0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_signals_only_set_a_flag_while_entered(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_signals() as received:
        assert received == []
        signal.raise_signal(number)
        assert received == [number.name]
    assert signal.getsignal(number) == before


def test_second_interrupt_ends_at_once() -> None:
    with stop_signals() as received:
        signal.raise_signal(signal.SIGINT)
        assert received == ["SIGINT"]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("[../gloo/transport/tcp/pair.cc:537] Connection closed by peer [127.0.0.1]:44281", True),
        ("[../gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1800000ms for recv operation", True),
        ("mat1 and mat2 shapes cannot be multiplied (4x9216 and 576x256)", False),
        ("CUDA out of memory. Tried to allocate 20.00 MiB", False),
    ],
)
def test_only_errors_of_a_lost_peer_are_renamed(text: str, lost: bool) -> None:
    with pytest.raises(LostRankError if lost else RuntimeError) as caught, noticing_lost_ranks():
        raise RuntimeError(text)
    assert isinstance(caught.value, LostRankError) == lost
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("model_parallel", "number", "timeout"), [("1", signal.SIGKILL, "60"), ("2", signal.SIGSTOP, "6")]
)
def test_rank_that_dies_or_hangs_stops_the_other_with_an_error(
    model_parallel: str, number: signal.Signals, timeout: str, arguments: Arguments, tmp_path: Path
) -> None:
    """A rank that dies is noticed at once, one that hangs after --timeout-seconds (a minute by default)."""
    options = ("--model-parallel", model_parallel, "--timeout-seconds", timeout)
    ranks = start(tmp_path, 2, train_and_signal, arguments(tmp_path / "run", *options), 1, 3, number)
    ranks.processes[0].join(MINUTE)
    assert ranks.processes[0].exitcode == 1, ranks.text()
    ranks.processes[1].kill()
    ranks.wait()
    message = ranks.text().splitlines()[-1]
    assert message.startswith("error on process 0: process 1 is gone or does not answer")
    assert message.endswith("; give the same command again to go on")
    assert "Traceback" not in ranks.text()


def test_loss_that_is_not_finite_stops_with_step_and_last_valid_checkpoint(
    arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(model.schedule, "PAPER_RATE", 1e12)
    run = tmp_path / "run"
    assert main(arguments(run, "--recipe", "paper", "--checkpoint-minutes", "0")) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    match = re.search(r"the loss of step (\d+) is (nan|inf); the last valid checkpoint is (.*)", message)
    assert match and match[3] == str(run / "checkpoints" / "last.pt")
    state = load_checkpoint(run / "checkpoints" / "last.pt")
    assert state["step"] < int(match[1])
    assert len(state["model"]) == 16
    assert all(torch.isfinite(tensor).all() for tensor in state["model"].values())


def test_weights_that_are_not_finite_are_not_saved(
    arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The loss of the last step was finite, but its gradients were not."""
    monkeypatch.setattr(model.schedule, "PAPER_RATE", float("inf"))
    run = tmp_path / "run"
    assert main(arguments(run, "--recipe", "paper", "--max-steps", "1")) == 1
    assert "weights are not finite after step 1; not saved: there is no checkpoint yet" in capsys.readouterr().err
    assert not (run / "checkpoints").exists()


def test_weights_that_are_not_finite_are_not_validated(
    arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last step of an epoch spoils them: the error has the step, and no score has been made."""
    monkeypatch.setattr(model.schedule, "PAPER_RATE", float("inf"))
    run = tmp_path / "run"
    assert main(arguments(run, "--recipe", "paper", "--batch-size", "20")) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message == "error: the weights are not finite after step 1; there is no checkpoint yet"
    assert "validation" not in (run / "metrics.jsonl").read_text()


def save_slowly(folder: Path) -> int:
    """A rank of two: those who wait for a step give up after a second, and rank 0 takes two and a half to save."""
    torch.distributed.init_process_group("gloo")
    mesh = make_mesh("1", "cpu", timeout_seconds=1.0)
    config = TrainConfig(shards=folder, run_dir=folder, keep_every=0)
    network = ParallelNetwork(ModelConfig(recipe="paper", classes=8, width=1 / 32), config, mesh)
    others = ("format", "statistics", "train_config", "data_config", "model_config", "dataset", "versions")
    checkpoints = CheckpointManager(config, dict.fromkeys(others), network, make_schedule("paper", 90))
    checkpoints.before_writing = lambda: threading.Event().wait(2.5) and None
    torch.distributed.barrier()
    checkpoints.save(TrainState())
    return 0 if mesh.sum([1.0]) == [2.0] else 1


def test_slow_save_is_no_lost_rank(tmp_path: Path) -> None:
    ranks = start(tmp_path, 2, save_slowly, tmp_path)
    assert ranks.wait() == [0, 0], ranks.text() + ranks.text(1)


def fill_disk(arguments: list[str], after: int) -> int:
    """A training in which no file may grow beyond 100 kB after a step: what a full disk does to a checkpoint."""
    add = Progress.add

    def add_and_fill(self: Progress, step: Step) -> None:
        add(self, step)
        if step.step == after:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))

    Progress.add = add_and_fill  # type: ignore[method-assign]
    return train(arguments)


def test_full_disk_is_an_error_on_all_ranks_and_the_old_checkpoint_stays(arguments: Arguments, tmp_path: Path) -> None:
    run = tmp_path / "run"
    ranks = start(tmp_path, 2, fill_disk, arguments(run), STEPS_PER_EPOCH + 2)
    assert ranks.wait() == [1, 1], ranks.text()
    for rank in (0, 1):
        message = ranks.text(rank).splitlines()[-1]
        assert message.startswith(f"error on process {rank}: cannot write {run}/checkpoints/last.pt")
        assert "bytes are free there" in message
    assert load_checkpoint(run / "checkpoints" / "last.pt")["step"] == STEPS_PER_EPOCH
    assert not list(run.rglob("*.part"))
