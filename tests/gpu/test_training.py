"""What only GPUs can tell of training (`make test-gpu`): never run yet. Loader and norms have theirs in their rooms."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model.checkpoint import load_checkpoint
from tests.handmade import pack_splits

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 600
BATCH, STEPS = 8, 10
pytestmark = pytest.mark.gpu


def needs(gpus: int) -> pytest.MarkDecorator:
    return pytest.mark.skipif(torch.cuda.device_count() < gpus, reason=f"needs {gpus} NVIDIA GPUs")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_splits(tmp_path_factory.mktemp("gpu-shards"), classes=3, train=40, val=8, encoding="jpeg")


def train(processes: int, shards: Path, run: Path, *options: str) -> list[float]:
    """A training of two epochs as a user starts it; the losses of its steps."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    start = start if processes > 1 else [sys.executable]
    command = [*start, "train.py", "--shards", str(shards), "--run-dir", str(run), "--width", "0.25", "--epochs", "2"]
    command += ["--batch-size", str(BATCH), "--recipe", "paper", "--device", "cuda", *options]
    job = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert job.returncode == 0, job.stderr[-2000:]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def assert_near(losses: list[float], expected: list[float], tolerance: float) -> None:
    assert len(losses) == len(expected) == STEPS
    assert losses == pytest.approx(expected, rel=tolerance)


@needs(1)
def test_one_gpu_computes_what_the_cpu_computes(shards: Path, tmp_path: Path) -> None:
    """In float32, from the same crops: to rounding, which ten steps let grow."""
    on_gpu = train(1, shards, tmp_path / "gpu", "--decode", "cpu", "--precision", "float32", "--model-parallel", "1")
    on_cpu = train(1, shards, tmp_path / "cpu", "--device", "cpu")
    assert_near(on_gpu, on_cpu, 0.02)
    assert on_gpu[0] == pytest.approx(on_cpu[0], rel=1e-4)


@needs(1)
@pytest.mark.parametrize("options", [[], ["--precision", "bfloat16"], ["--compile"], ["--decode", "cpu"]])
def test_options_train_close_to_float32(options: list[str], shards: Path, tmp_path: Path) -> None:
    exact = train(1, shards, tmp_path / "exact", "--precision", "float32")
    assert_near(train(1, shards, tmp_path / "run", *options), exact, 0.1)


@needs(1)
def test_stopped_and_resumed_is_the_run_that_never_stopped(shards: Path, tmp_path: Path) -> None:
    train(1, shards, tmp_path / "uncut", "--deterministic", "--decode", "cpu")
    for steps in ("4", str(STEPS)):
        train(1, shards, tmp_path / "cut", "--deterministic", "--decode", "cpu", "--max-steps", steps)
    first, second = (load_checkpoint(tmp_path / run / "checkpoints" / "last.pt")["model"] for run in ("uncut", "cut"))
    assert len(first) == 16 and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("gpus", "model_parallel"),
    [pytest.param(2, "1", marks=needs(2)), pytest.param(2, "2", marks=needs(2)), pytest.param(4, "2", marks=needs(4))],
)
def test_several_gpus_compute_what_one_computes(gpus: int, model_parallel: str, shards: Path, tmp_path: Path) -> None:
    options = ("--precision", "float32", "--decode", "cpu")
    one = train(1, shards, tmp_path / "one", *options)
    assert_near(train(gpus, shards, tmp_path / "many", *options, "--model-parallel", model_parallel), one, 0.02)


@needs(1)
def test_evaluation_on_a_gpu_is_the_cpus(shards: Path, tmp_path: Path) -> None:
    train(1, shards, tmp_path, "--precision", "float32", "--decode", "cpu")
    reports = []
    for device in ("cuda", "cpu"):
        command = [sys.executable, "eval_tenpatch.py", "--run-dir", str(tmp_path), "--device", device]
        subprocess.run(command, cwd=ROOT, env=os.environ, check=True, timeout=SECONDS, capture_output=True)
        reports.append(json.loads((tmp_path / "report.json").read_text()))
    assert reports[0]["images"] == reports[1]["images"] == 8
    assert reports[0]["ten_patch"]["log_loss"] == pytest.approx(reports[1]["ten_patch"]["log_loss"], rel=1e-2)
