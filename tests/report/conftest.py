"""Runs made by hand and evaluated, for the tests of the report, and a browser to open their pages in."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from eval_tenpatch import main as evaluate
from evaluation.tables import METHODS
from evaluation.trained_run import EvaluationError, TrainedRun
from model import AlexNet, ModelConfig
from model.checkpoint import save_checkpoint
from report.__main__ import main as report_main
from tests.handmade import WIDTH, checkpoint_state, make_run, pack_splits
from tests.report.chromium import PROGRAM, Browser


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven classes, 14 training and 9 held-out pictures as JPEG."""
    return pack_splits(tmp_path_factory.mktemp("report"), classes=7, train=14, val=9, encoding="jpeg")


@pytest.fixture(scope="session")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluated run; tests that change it work on a copy."""
    folder = make_run(tmp_path_factory.mktemp("evaluated") / "run", shards)
    assert evaluate(["--run-dir", str(folder), "--device", "cpu"]) == 0
    return folder


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if PROGRAM is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    with Browser(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


class HeldOut:
    """Stands in for a split of 50,000 images: any id has one of seven pictures."""

    fingerprint, split, encoding = "of 50,000 images", "val", "raw"

    def __len__(self) -> int:
        return 50_000

    def labels(self, ids: np.ndarray) -> np.ndarray:
        return np.asarray(ids) // 50

    def images(self, ids: np.ndarray) -> list[np.ndarray]:
        pictures = np.random.default_rng(0).integers(0, 256, (7, 16, 16, 3), np.uint8).repeat(16, 1).repeat(16, 2)
        return [pictures[int(sample) % 7] for sample in ids]


HOSTILE_NAMES = ["$a_{b$", "<script>throw 1</script>", "two\nlines", "x" * 300, "مرحبا", "100 %", "\\frac{", "'\"&amp;"]


@pytest.fixture(scope="session")
def thousand(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reported run of 1,000 classes, made up: 50,000 images, six of ten right, names that break a careless page."""
    config = ModelConfig(classes=1000, width=WIDTH)
    names = HOSTILE_NAMES + [f"class {label}, another name" for label in range(len(HOSTILE_NAMES), 1000)]
    run = make_run(tmp_path_factory.mktemp("thousand") / "run", shards)
    classes = [[label, f"n{label:08d}", name] for label, name in enumerate(names)]
    state = checkpoint_state(AlexNet(config, seed=0).eval(), classes=classes)
    save_checkpoint(run / "checkpoints" / "last.pt", state)
    random, labels = np.random.default_rng(0), np.arange(50_000) // 50
    best = (labels[:, None] + [0, 1, 3, 10, 100]) % 1000  # class 5's images may be taken for class 6, 8, 15 or 105
    wrong = random.random(50_000) < 0.4
    best[wrong] = random.permuted(best[wrong], axis=1)
    probability = np.sort(random.dirichlet(np.full(6, 0.5), 50_000)[:, :5], axis=1)[:, ::-1].astype(np.float32)
    np.savez(run / "predictions.npz", ids=np.arange(50_000), labels=labels, best=best, probability=probability)
    figures = {"images": 50_000, "log_loss": 2.0, "log_loss_interval": [1.9, 2.1]}
    for guesses, error in ((1, (best[:, 0] != labels).mean()), (5, 0.0)):
        figures |= {f"top{guesses}_error": float(error), f"top{guesses}_interval": [0.0, float(error) + 0.01]}
    report = {
        "date": "2026-01-01T00:00:00+00:00", "split": "val", "machine": "made up", "images": 50_000, "classes": 1000,
        "images_per_second": 1000.0, "references": [], "reference_note": "", **dict.fromkeys(METHODS, figures),
        "checkpoint": {"step": state["step"], "sha256": "0"},
        "dataset": {"shards": "val", "fingerprint": HeldOut.fingerprint, "samples": 50_000},
    }  # fmt: skip
    (run / "report.json").write_text(json.dumps(report))

    def open_split(self: TrainedRun, split: str, override: Path | None = None) -> HeldOut:
        if split != "val":
            raise EvaluationError("no such split here")
        return HeldOut()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainedRun, "open_split", open_split)
        assert report_main(["--run-dir", str(run), "--device", "cpu"]) == 0
    return run
