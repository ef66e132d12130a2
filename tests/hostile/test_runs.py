"""Runs and checkpoints that are not what they should be: what the user has, and what happens."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import eval_tenpatch
import train
from common.errors import UserError
from model import AlexNet, ModelConfig
from model.checkpoint import CheckpointError, load_checkpoint
from tests.handmade import checkpoint_state, make_run, pack_splits
from training import run_folder
from training.run_folder import RunLock

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ModelConfig(recipe="paper", classes=3, width=1 / 16)
State = dict[str, Any]


def change(*path: str, to: Any) -> Callable[[State], None]:
    """Put a value deep into a state."""

    def apply(state: State) -> None:
        for name in path[:-1]:
            state = state[name]
        state[path[-1]] = to

    return apply


def without(part: str, name: str) -> Callable[[State], None]:
    return lambda state: state[part].pop(name)


NAN = torch.full((3,), float("nan"))
FOREIGN: list[tuple[str, Callable[[State], None], str]] = [
    ("an epoch of text", change("epoch", to="3"), "epoch is 3, expected an integer from 0"),
    ("a step below 0", change("step", to=-1), "step is -1"),
    ("a step that is a yes", change("step", to=True), "step is True"),
    ("an error above 1", change("best", to=7.0), "best is 7.0"),
    ("weights that are a list", change("model", to=[1]), r"model is \[1\], expected a dict"),
    ("a weight less", without("model", "conv3.bias"), "model is without or with conv3.bias, expected exactly"),
    ("a weight more", change("model", "conv9.bias", to=torch.zeros(3)), "model is without or with conv9.bias"),
    ("a weight of text", change("model", "conv3.bias", to="zero"), "model.conv3.bias is zero, expected a tensor"),
    ("another shape", change("model", "fc8.bias", to=torch.zeros(4)), r"model.fc8.bias is .*\[4\], .*\[3\]"),
    ("whole numbers as weights", change("model", "fc8.bias", to=torch.arange(3)), "model.fc8.bias is torch.int64"),
    ("a sparse weight", change("model", "fc8.bias", to=torch.zeros(3).to_sparse()), "model.fc8.bias is"),
    ("a weight without memory", change("model", "fc8.bias", to=torch.zeros(3, device="meta")), "model.fc8.bias is"),
    ("a weight that is no number", change("model", "fc8.bias", to=NAN), "model.fc8.bias is NaN or infinite"),
    ("no velocities", change("optimizer", to={}), "optimizer is "),
    ("a velocity of another shape", change("optimizer", "fc8.bias", to=torch.zeros(4)), "optimizer.fc8.bias is"),
    ("another width", change("model_config", "width", to=0.5), "model.conv1.weight is"),
    ("a width of text", change("model_config", "width", to="wide"), "model_config or schedule cannot be used"),
    ("a network without end", change("model_config", "width", to=1e300), "model_config .* makes no network"),
    ("an option of another program", change("model_config", "depth", to=3), "model_config or schedule cannot be used"),
    ("a recipe of another program", change("model_config", "recipe", to="vgg"), "model_config or schedule cannot be"),
    ("more classes", change("model_config", "classes", to=4), "dataset.classes is"),
    ("no class table", without("dataset", "classes"), "dataset.classes is None"),
    ("class rows of text", change("dataset", "classes", to=["a", "b", "c"]), "dataset.classes is"),
    ("no fingerprint", without("dataset", "fingerprint"), "dataset.fingerprint is None"),
    ("samples of text", change("dataset", "samples", to="13"), "dataset.samples is 13"),
    ("a schedule without its numbers", without("schedule", "drops"), "model_config or schedule .*: KeyError"),
    ("a rate that rises", change("schedule", "drops", to=-3), "schedule is"),
    ("a batch of text", change("train_config", "batch_size", to="many"), "train_config.batch_size is many"),
    ("no options", change("train_config", to={}), "train_config.recipe is None"),
    ("statistics without a mean", without("statistics", "mean_image"), "statistics is without or with mean_image"),
    ("a mean of NaN", change("statistics", "rgb_mean", to=NAN), "statistics.rgb_mean is NaN or infinite"),
    ("a small mean image", change("statistics", "mean_image", to=torch.zeros(2, 2, 3)), "statistics.mean_image is"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), [case[1:] for case in FOREIGN], ids=[case[0] for case in FOREIGN])
def test_foreign_checkpoints_are_an_error_that_names_file_and_field(
    change: Callable[[State], None], message: str, tmp_path: Path
) -> None:
    state, path = checkpoint_state(AlexNet(CONFIG)), tmp_path / "last.pt"
    change(state)
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=f"^{path} is no valid checkpoint: {message}") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_splits(tmp_path_factory.mktemp("hostile-runs"), classes=3, train=13, val=3, encoding="jpeg")


def arguments(shards: Path, run: Path) -> list[str]:
    fixed = ["--width", "0.0625", "--epochs", "3", "--batch-size", "4", "--device", "cpu", "--threads", "1"]
    return ["--shards", str(shards), "--run-dir", str(run), *fixed]


def test_both_programs_print_one_line_for_a_foreign_checkpoint(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", shards, optimizer={})
    programs = ((train.main, arguments(shards, run)), (eval_tenpatch.main, ["--run-dir", str(run), "--device", "cpu"]))
    for program, line in programs:
        assert program(line) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
        assert f"{run / 'checkpoints' / 'last.pt'} is no valid checkpoint: optimizer is" in error


def test_second_training_into_one_folder_is_refused_and_names_the_first(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    lock = RunLock(run)
    assert train.main(arguments(shards, run)) == 1
    error = capsys.readouterr().err
    assert f"{run} is in use by process {os.getpid()} on {socket.gethostname()}, since 2" in error
    assert error.count("\n") == 1 and [path.name for path in run.iterdir()] == ["lock"]
    lock.close()
    assert train.main([*arguments(shards, run), "--max-steps", "1"]) == 0
    RunLock(run).close()  # free again after the run


@pytest.mark.slow
def test_dead_process_of_this_machine_does_not_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = "import os, pathlib, signal, sys; from training.run_folder import RunLock; "
    program += "RunLock(pathlib.Path(sys.argv[1])); os.kill(os.getpid(), signal.SIGKILL)"
    died = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, check=False)
    assert died.returncode == -signal.SIGKILL and "process" in (tmp_path / "lock").read_text()
    monkeypatch.setattr(run_folder, "BEAT_SECONDS", 1e6)  # it is not watched: that would take weeks
    RunLock(tmp_path).close()


@pytest.mark.parametrize("alive", [True, False])
def test_process_of_another_machine_blocks_as_long_as_it_touches_the_lock(
    alive: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As through a file system whose locks do not reach the other machine: only the file's time tells."""
    monkeypatch.setattr(run_folder, "BEAT_SECONDS", 0.1)
    name = socket.gethostname()
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(run_folder.socket, "gethostname", lambda: f"not-{name}")
        other = RunLock(tmp_path)
    monkeypatch.setattr(run_folder.fcntl, "flock", lambda *_: None)
    if alive:
        with pytest.raises(UserError, match=f"in use by process {os.getpid()} on not-{name}"):
            RunLock(tmp_path)
        other.close()
    else:
        holder = (tmp_path / "lock").read_text()
        other.close()
        (tmp_path / "lock").write_text(holder)
    RunLock(tmp_path).close()
    assert (tmp_path / "lock").read_text() == ""


# Ctrl-C while `train.py` imports: an import of torch that stands for it raises what the signal raises.
INTERRUPTED = """
import runpy, sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
sys.argv[0] = "train.py"
runpy.run_path("train.py", run_name="__main__")
"""


@pytest.mark.parametrize(
    ("more", "status", "lines"),
    [
        (["--shards", "none", "--run-dir", "none"], 130, ["interrupted"]),
        (["--shards", "none", "--run-dir", "none", "--seed", "x"], 2, ["error: argument --seed: invalid int"]),
        (["--help"], 0, []),
    ],
)  # fmt: skip
def test_nothing_heavy_is_imported_before_the_command_line_is_right(
    more: list[str], status: int, lines: list[str]
) -> None:
    command = [sys.executable, "-c", INTERRUPTED, *more]
    job = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert job.returncode == status, job.stderr
    assert len(job.stderr.splitlines()) == len(lines)
    assert all(said.startswith(expected) for said, expected in zip(job.stderr.splitlines(), lines))
