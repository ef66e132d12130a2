"""The section on several networks' mean: each, the mean, and the gain, in the numbers of average/report.json."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval_tenpatch import main as evaluate
from evaluation.results import AVERAGE
from evaluation.trained_run import TrainedRun
from report.__main__ import main
from report.errors import average_section
from report.page import Table
from tests.handmade import make_run
from tests.report.test_report import SECTIONS, Page


@pytest.fixture(scope="module")
def averaged(run: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the `original` recipe, averaged with one of the `paper` recipe."""
    folder = tmp_path_factory.mktemp("averaged")
    first = Path(shutil.copytree(run, folder / "first"))
    second = make_run(folder / "second", shards, "paper")
    assert evaluate(["--run-dir", str(first), str(second), "--device", "cpu"]) == 0
    return first


def figures(top1: float, top5: float, loss: float) -> dict[str, Any]:
    return {
        "images": 50_000, "top1_error": top1, "top1_interval": [top1 - 0.004, top1 + 0.004],
        "top5_error": top5, "top5_interval": [top5 - 0.003, top5 + 0.003],
        "log_loss": loss, "log_loss_interval": [loss - 0.02, loss + 0.02],
    }  # fmt: skip


def test_each_network_the_mean_and_the_gain_are_told_in_points(averaged: Path) -> None:
    run = TrainedRun.open(averaged)
    report = json.loads((averaged / AVERAGE / "report.json").read_text())
    alone, gains = [(0.407, 0.182, 1.74), (0.402, 0.180, 1.72)], [(0.026, 0.018, 0.115), (0.021, 0.016, 0.095)]
    report["ten_patch"] = figures(0.381, 0.164, 1.625)
    for member, own, gain in zip(report["members"], alone, gains, strict=True):
        member["ten_patch"] = figures(*own)
        member["gain"] = dict(zip(("top1_error", "top5_error", "log_loss"), gain))
    paper = {"run": "paper, five", "challenge": "ILSVRC-2012", "split": "val"}
    report["references"] = [paper | {"top1_error": 0.381, "top5_error": 0.164, "log_loss": None}]
    (table,) = average_section(run, report).blocks
    assert isinstance(table, Table)
    one, two = (member["file"] for member in report["members"])
    assert table.rows[0] == (
        "ten patches, mean of softmax, 2 networks", "38.10 [37.70, 38.50]", "16.40 [16.10, 16.70]",
        "1.6250 [1.6050, 1.6450]",
    )  # fmt: skip
    assert [row[0] for row in table.rows[1:3]] == [
        "ten patches, mean of logits, 2 networks", "center crop, 2 networks"
    ]  # fmt: skip
    assert table.rows[3:] == [
        (f"{one} alone", "40.70 [40.30, 41.10]", "18.20 [17.90, 18.50]", "1.7400 [1.7200, 1.7600]"),
        (f"{one} less the mean", "+2.60", "+1.80", "+0.1150"),
        (f"{two} alone", "40.20 [39.80, 40.60]", "18.00 [17.70, 18.30]", "1.7200 [1.7000, 1.7400]"),
        (f"{two} less the mean", "+2.10", "+1.60", "+0.0950"),
        ("paper, five, ILSVRC-2012 val", "38.1", "16.4", ""),
    ]


def test_the_page_has_what_the_evaluation_left(averaged: Path) -> None:
    assert main(["--run-dir", str(averaged), "--device", "cpu"]) == 0
    page = Page((averaged / "report.html").read_text())
    assert page.sections == ["errors", "average", *SECTIONS[1:]]
    with np.load(averaged / AVERAGE / "predictions.npz") as rows:
        mean = 100 * (rows["best"][:, 0] != rows["labels"]).mean()
    assert page.cells[page.cells.index("ten patches, mean of softmax, 2 networks") + 1].startswith(f"{mean:.2f} [")
    with np.load(averaged / "predictions.npz") as rows:  # of the first network by itself
        alone = 100 * (rows["best"][:, 0] != rows["labels"]).mean()
    network = averaged / "checkpoints" / "last.pt"
    assert page.cells[page.cells.index(f"{network} alone") + 1].startswith(f"{alone:.2f} [")
    assert page.cells[page.cells.index(f"{network} less the mean") + 1] == f"{alone - mean:+.2f}"
    assert not any("None of these networks" in words for words in page.words)


def test_a_mean_of_other_checkpoints_is_marked(averaged: Path) -> None:
    report = json.loads((averaged / AVERAGE / "report.json").read_text())
    report["members"][0]["sha256"] = "of an earlier checkpoint"
    sentences = average_section(TrainedRun.open(averaged), report).sentences
    assert sentences[-1].startswith("None of these networks is that of ")
    assert sentences[-1].endswith(f"Average again: python eval_tenpatch.py --run-dir {averaged} B…")


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda report: report["members"][1].pop("gain"), "expected an object under 'members.gain', got NoneType"),
        (lambda report: report["members"][0]["gain"].update(log_loss="1"), "field 'members.gain.log_loss': expected"),
        (lambda report: report.update(members=3), "not iterable"),
    ],
)
def test_a_foreign_mean_is_one_line_and_exit_1(
    averaged: Path, tmp_path: Path, spoil: Callable[[Any], object], what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(averaged, tmp_path / "run"))
    report = json.loads((copy / AVERAGE / "report.json").read_text())
    spoil(report)
    (copy / AVERAGE / "report.json").write_text(json.dumps(report))
    assert main(["--run-dir", str(copy), "--device", "cpu"]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert what in line and line.endswith(f"make it again: python eval_tenpatch.py --run-dir {copy} B…")
