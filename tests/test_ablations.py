"""The table of ablations from runs made by hand, and the script that makes the runs."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from eval_tenpatch import main as evaluate
from evaluation.trained_run import TrainedRun
from scripts.ablations import main
from tests.handmade import make_run, pack_splits
from training.config import ABLATIONS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "scripts" / "ablations.slurm"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """`whole`, evaluated; `norms`, the same but for one wrong answer turned right; `conv3` of another seed."""
    shards = pack_splits(tmp_path / "data", classes=7, train=21, val=9, encoding="raw")
    runs = tmp_path / "runs"
    whole = make_run(runs / "whole", shards)
    assert evaluate(["--run-dir", str(whole), "--device", "cpu"]) == 0
    options = {"train_config": TrainedRun.open(whole).state["train_config"]}
    (whole / "config.json").write_text(json.dumps(options))
    for part, changes in (("norms", {"ablate": ["norms"]}), ("conv3", {"ablate": ["conv3"], "seed": 7})):
        run = Path(shutil.copytree(whole, runs / part))
        config = json.loads((run / "config.json").read_text())
        config["train_config"] |= changes
        (run / "config.json").write_text(json.dumps(config))
    with np.load(runs / "norms" / "predictions.npz") as rows:
        answers = dict(rows)
    wrong = np.flatnonzero(answers["best"][:, 0] != answers["labels"])[0]
    answers["best"][wrong, 0] = answers["labels"][wrong]
    np.savez(runs / "norms" / "predictions.npz", **answers)
    return runs


def test_the_table_has_each_part_or_the_reason_why_not(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(runs), "--note", "A rehearsal."]) == 0
    table = json.loads((runs / "ablations.json").read_text())
    rows = {row["part"]: row for row in table["parts"]}
    assert tuple(rows) == ABLATIONS
    norms = rows["norms"]
    assert norms["top1"]["more"] == pytest.approx(-1 / 9)
    assert norms["top1"]["low"] < norms["top1"]["more"] < norms["top1"]["high"]
    assert [item["top1"] for item in norms["sources"]] == [0.014, 0.0137]
    assert "is no ablation of conv3: --seed is 7, expected 0" in rows["conv3"]["missing"]
    assert "is not trained and evaluated yet" in rows["dropout"]["missing"]
    text = (runs / "ablations.md").read_text()
    assert text == capsys.readouterr().out
    assert "A rehearsal." in text and "| norms |" in text and "-11.11 [" in text
    assert "+1.40, +1.20 (Krizhevsky 2012 §3.3)" in text
    assert (runs / "ablations.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("file", ["report.json", "predictions.npz"])
def test_without_the_whole_network_there_is_no_table(file: str, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (runs / "whole" / file).unlink()
    assert main([str(runs)]) == 1
    assert "whole is not trained and evaluated yet" in capsys.readouterr().err


def test_the_script_knows_every_part_and_runs_the_array() -> None:
    text = SCRIPT.read_text()
    (parts,) = re.findall(r"^parts=\((.*)\)$", text, re.MULTILINE)
    assert parts.split() == ["whole", *ABLATIONS]
    assert f"--array=0-{len(ABLATIONS)}\n" in text


def stand_in(folder: Path) -> Path:
    """A checkout whose Python writes down how it is called."""
    (folder / ".venv" / "bin").mkdir(parents=True)
    python = folder / ".venv" / "bin" / "python"
    python.write_text('#!/bin/sh\necho "$*" >> calls.txt\n')
    python.chmod(0o755)
    return folder


def test_without_slurm_all_runs_come_one_after_the_other(tmp_path: Path) -> None:
    folder = stand_in(tmp_path)
    command = ["bash", str(SCRIPT), "data", "runs", "--epochs", "3"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    environment["NOTE"] = "A rehearsal."
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    calls = (folder / "calls.txt").read_text().splitlines()
    assert len(calls) == 3 * (1 + len(ABLATIONS))
    assert calls[:3] == [
        "train.py --shards data --run-dir runs/whole --epochs 3",
        "eval_tenpatch.py --run-dir runs/whole",
        "scripts/ablations.py runs --note A rehearsal.",
    ]
    trained = [call for call in calls if call.startswith("train.py")][1:]
    assert trained == [f"train.py --shards data --run-dir runs/{part} --ablate {part} --epochs 3" for part in ABLATIONS]


def test_a_wrong_command_line_says_how(tmp_path: Path) -> None:
    done = subprocess.run(["bash", str(SCRIPT), "data"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "sbatch scripts/ablations.slurm SHARDS RUNS" in done.stderr
