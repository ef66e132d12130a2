"""The Makefile's habits: help lists every target, a missing argument is one line, arguments reach the program."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TARGETS = ["setup", "demo", "test", "check", "fmt", "shards", "train", "eval", "report", "bench"]


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "--no-print-directory", "-o", "setup", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_help_lists_every_target() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    listed = re.findall(r"^  make (\S+)", make("help").stdout, re.MULTILINE)
    assert sorted(listed) == sorted(phony[1].split())
    assert set(TARGETS) <= set(listed)


@pytest.mark.parametrize(("target", "given", "asked"), [
    ("shards", ["SRC=x"], "OUT=…"),
    ("shards", ["OUT=x"], "SRC=…"),
    ("train", ["SHARDS=x"], "RUN=…"),
    ("eval", [], "RUN=…"),
    ("report", [], "RUN=…"),
])  # fmt: skip
def test_a_missing_argument_is_named(target: str, given: list[str], asked: str) -> None:
    run = make(target, *given)
    assert run.returncode == 2
    first = run.stderr.splitlines()[0]
    assert first.startswith(f"error: make {target} needs ") and asked in first


@pytest.mark.parametrize(("gpus", "launcher"), [
    ("0", ".venv/bin/python train.py"),
    ("1", ".venv/bin/python train.py"),
    ("4", ".venv/bin/torchrun --standalone --nproc-per-node 4"),
])  # fmt: skip
def test_train_starts_one_process_per_gpu(gpus: str, launcher: str) -> None:
    shown = make("-n", "train", "SHARDS=s h", "RUN=r", f"GPUS={gpus}", "ARGS=--epochs 3").stdout
    assert ("-- train.py" in shown) == ("torchrun" in shown)  # else torchrun takes --run for its own
    assert launcher in shown
    assert 'train.py --shards "s h" --run "r" --epochs 3' in shown


def test_quick_and_extra_arguments_reach_the_benchmarks() -> None:
    assert (
        "benchmarks loader pack step tenpatch cold --quick --out o"
        in make("-n", "bench", "QUICK=1", "ARGS=--out o").stdout
    )
    assert "--quick" not in make("-n", "bench").stdout
