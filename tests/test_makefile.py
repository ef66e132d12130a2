"""The Makefile's habits: help lists every target with an example, a missing argument is one line, arguments arrive."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = (
    "setup demo test test-fast test-gpu check fmt shards train eval report bench bench-peers gpu-check clean-demo help"
)
FOUR_GPUS = '#!/bin/sh\nfor i in 0 1 2 3; do echo "GPU $i: NVIDIA (UUID: GPU-$i)"; done\n'


def make(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "--no-print-directory", "-o", "setup", *arguments]
    variables = {name: value for name, value in os.environ.items() if name != "MAKEFLAGS"} | environment
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=variables)


def test_help_lists_every_target() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert phony is not None
    listed = re.findall(r"^  make (\S+) ", make("help").stdout, re.MULTILINE)
    assert sorted(listed) == sorted(phony[1].split())
    assert set(TARGETS.split()) <= set(listed)


def test_help_shows_an_example_of_each_target_that_takes_arguments() -> None:
    examples = dict(re.findall(r"^ {20}make (?:clean-demo )?(\S+) (.*)$", make("help").stdout, re.MULTILINE))
    rules = re.findall(r"^([a-z-]+):.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    with_arguments = [target for target, recipe in rules if "$(ARGS)" in recipe]
    assert len(with_arguments) >= 10
    for target in with_arguments:
        assert "ARGS='" in examples[target], target


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
    assert launcher in shown and " -- " not in shown
    assert 'train.py --shards "s h" --run-dir "r" --epochs 3' in shown


@pytest.mark.parametrize(("visible", "processes"), [
    (None, 4),  # not set: all GPUs of the node
    ("", 1),  # set to nothing: the CPU
    ("0", 1),
    ("0,2", 2),
    ("3,2,1,0", 4),
    ("GPU-1,GPU-2,GPU-3", 3),  # by name
    ("-1", 1),
    ("0,1,-1,2", 2),  # what stands behind an invalid entry does not count
    ("0,1,9,2", 2),
])  # fmt: skip
def test_gpus_are_those_that_cuda_visible_devices_leaves(visible: str | None, processes: int, tmp_path: Path) -> None:
    (tmp_path / "nvidia-smi").write_text(FOUR_GPUS)
    (tmp_path / "nvidia-smi").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    if visible is None:
        assert "CUDA_VISIBLE_DEVICES" not in os.environ
    else:
        environment["CUDA_VISIBLE_DEVICES"] = visible
    shown = make("-n", "train", "SHARDS=s", "RUN=r", **environment).stdout
    launched = re.search(r"--nproc-per-node (\d+)", shown)
    assert (int(launched[1]) if launched else 1) == processes


def test_quick_and_extra_arguments_reach_the_benchmarks() -> None:
    shown = make("-n", "bench", "QUICK=1", "ARGS=--out o").stdout
    assert re.search(r"-m benchmarks loader pack step tenpatch cold.* --quick --out o$", shown, re.MULTILINE)
    assert "--quick" not in make("-n", "bench").stdout


@pytest.mark.slow
def test_setup_installs_the_project_for_scripts_elsewhere(tmp_path: Path) -> None:
    """A script outside the checkout imports every room, with its types (py.typed), and the two programs."""
    assert "pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e ." in MAKEFILE
    script = tmp_path / "elsewhere.py"
    script.write_text(
        "import importlib.util as util, pathlib\n"
        "for room in 'common sharding dali_pipelines model training evaluation report benchmarks'.split():\n"
        "    folder = pathlib.Path(util.find_spec(room).origin).parent\n"
        "    print(room, (folder / 'py.typed').is_file())\n"
        "print(*(util.find_spec(name) is not None for name in ('train', 'eval_tenpatch')))\n"
        "import sharding, dali_pipelines, model\n"
        "print(sharding.ShardSet.__name__, dali_pipelines.Loader.__name__, model.AlexNet.__name__)\n"
    )
    run = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, f"{run.stderr}\nis the project installed? make setup does it"
    lines = run.stdout.splitlines()
    assert len(lines) == 10 and all(line.endswith(" True") for line in lines[:9])
    assert lines[-1] == "ShardSet Loader AlexNet"
