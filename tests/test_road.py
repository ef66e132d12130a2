"""The whole road on real pictures, as a user types it: pack, train, evaluate with ten patches, report."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_300_photographs_train_the_full_width_network(photos: Path, tmp_path: Path) -> None:
    shards, folder = tmp_path / "shards", tmp_path / "run"
    run("-m", "sharding", "pack", photos, shards)
    run(
        "train.py", "--shards", shards, "--run-dir", folder, "--batch-size", "32", "--max-steps", "3", "--device", "cpu"
    )

    manifest = json.loads((shards / "train" / "manifest.json").read_text())
    classes = len({path.name.partition("_")[0] for path in photos.iterdir()})
    assert manifest["samples"] == 300 and len(manifest["classes"]) == classes
    lines = metrics(folder)
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert abs(lines[0]["loss"] - math.log(classes)) < 0.5  # the initial weights tell nothing yet
    assert {"epoch", "top1_error", "rate", "images_per_second", "data_wait_fraction"} <= set(lines[0])
    weights = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)["model"]
    assert sum(tensor.numel() for tensor in weights.values()) == 60_965_224 - (1000 - classes) * 4097


def test_pack_train_evaluate_report(sample_photos: Path, tmp_path: Path) -> None:
    source, shards, folder = tmp_path / "source", tmp_path / "shards", tmp_path / "run"
    for file in sorted(sample_photos.rglob("*.jpg")):
        split = "val" if file.stem.endswith("9") else "train"
        (source / split / file.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, source / split / file.parent.name)
    run("-m", "sharding", "pack", source, shards)
    run("train.py", "--shards", shards, "--run-dir", folder, "--width", "0.0625", "--batch-size", "12", "--epochs", "2")
    screen = run("eval_tenpatch.py", "--run-dir", folder).stdout
    run("-m", "report", "--run-dir", folder)

    assert {path.name for path in folder.iterdir()} >= {"config.json", "metrics.jsonl", "checkpoints", "report.html"}
    assert [line["step"] for line in metrics(folder) if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert [line["validation"]["images"] for line in metrics(folder) if "validation" in line] == [4, 4]
    report = json.loads((folder / "report.json").read_text())
    assert report["images"] == 4
    for kind in ("ten_patch", "center_crop"):
        errors = report[kind]
        assert 0 <= errors["top5_error"] <= errors["top1_error"] <= 1
        assert errors["top1_error"] in (0, 0.25, 0.5, 0.75, 1)
    assert f"{100 * report['ten_patch']['top1_error']:.2f}" in screen
