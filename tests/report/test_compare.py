"""Runs side by side: errors, the paired difference, the options that differ."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evaluation.results import read_predictions
from evaluation.tables import compare_answers
from evaluation.trained_run import EvaluationError, TrainedRun
from report.__main__ import main
from report.build import differences_section
from report.errors import baseline_section, compared_section, paired_row
from report.page import Section, Table
from tests.handmade import make_run
from tests.report.test_report import Page


@pytest.fixture(scope="module")
def other(shards: Path, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the other recipe that answers otherwise for the same images."""
    folder = make_run(tmp_path_factory.mktemp("other") / "other", shards, "paper")
    shutil.copy(run / "report.json", folder)
    with np.load(run / "predictions.npz") as rows:
        changed = dict(rows) | {"best": np.roll(rows["best"], 1, axis=0)}
    np.savez(folder / "predictions.npz", **changed)
    return folder


def tables(section: Section) -> list[Table]:
    return [block for block in section.blocks if isinstance(block, Table)]


def test_the_page_has_errors_curves_and_the_options_that_differ(run: Path, other: Path, tmp_path: Path) -> None:
    page = tmp_path / "pages" / "both.html"
    assert main(["--compare", str(run), str(other), "--out", str(page)]) == 0
    found = Page(page.read_text())
    assert found.sections == ["errors", "curves", "options"] and len(found.charts) == 6
    assert sorted(path.suffix for path in (page.parent / "both").iterdir()) == [".svg"] * 6
    place = found.cells.index("train: recipe")
    assert found.cells[place : place + 3] == ["train: recipe", "original", "paper"]
    assert "train: batch_size" not in found.cells and "train: run_dir" not in found.cells


def test_the_difference_is_that_of_the_answers(run: Path, other: Path) -> None:
    first, second = TrainedRun.open(run), TrainedRun.open(other)
    ours, theirs = (read_predictions(path, 7) for path in (run, other))
    assert ours is not None and theirs is not None
    right = [
        (rows.best[:, :guesses] == rows.labels[:, None]).any(axis=1) for guesses in (1, 5) for rows in (ours, theirs)
    ]
    top1, top5 = compare_answers(right[0], right[1]), compare_answers(right[2], right[3])
    row = paired_row(second, first)
    assert row[0] == f"{other} less {run}"
    assert row[1:5] == (top1.in_points(), f"{top1.p_value:.2g}", top5.in_points(), f"{top5.p_value:.2g}")
    assert row[5] == f"{(right[1] & ~right[0]).sum()} / {(right[0] & ~right[1]).sum()}"
    assert top1.difference == pytest.approx(right[0].mean() - right[1].mean())
    errors, differences = tables(compared_section([first, second]))
    assert [row[0] for row in errors.rows] == [str(run), str(other)]
    assert differences.rows == [row]


def test_a_baseline_is_told_on_the_runs_page(run: Path, other: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert main(["--run-dir", str(run), "--baseline", str(other), "--out", str(page), "--device", "cpu"]) == 0
    found = Page(page.read_text())
    assert found.sections[:2] == ["errors", "baseline"]
    assert f"{run} less {other}" in found.cells


def test_what_the_sources_say_of_the_parts_left_out_stands_below(run: Path, other: Path) -> None:
    trained, baseline = TrainedRun.open(run), TrainedRun.open(other)
    options = trained.state["train_config"] | {"ablate": ("norms", "color")}
    without = replace(trained, state=trained.state | {"train_config": options})
    (table,) = tables(baseline_section(without, baseline))
    assert [row[0] for row in table.rows[1:]] == [
        "without norms: Krizhevsky 2012 §3.3",
        "without norms: layer-params-148.cfg less -145.cfg, ILSVRC-2012 val",
        "without color: Krizhevsky 2012 §4.1: over 1 point",
    ]
    assert [row[1:] for row in table.rows[1:]] == [
        ("+1.40", "", "+1.20", "", ""),
        ("+1.37", "", "+1.15", "", ""),
        ("about +1.00", "", "", "", ""),
    ]
    assert len(tables(baseline_section(without, without))[0].rows) == 1  # no part of the difference


def test_what_cannot_be_compared_is_said(run: Path, other: Path, tmp_path: Path) -> None:
    elsewhere, bare = (Path(shutil.copytree(other, tmp_path / name)) for name in ("elsewhere", "bare"))
    report = json.loads((elsewhere / "report.json").read_text())
    report["dataset"]["fingerprint"] = "of another split"
    (elsewhere / "report.json").write_text(json.dumps(report))
    (bare / "report.json").unlink()
    runs = [TrainedRun.open(path) for path in (run, elsewhere, bare)]
    section = compared_section(runs)
    assert [row[0] for row in tables(section)[0].rows] == [str(run), str(elsewhere)] and len(section.blocks) == 1
    said = " ".join(section.sentences)
    assert "evaluate both on the same split" in said
    assert f"Not evaluated yet: python eval_tenpatch.py --run-dir {bare}" in said
    with pytest.raises(EvaluationError, match="evaluate both on the same split"):
        paired_row(runs[1], runs[0])


def test_the_same_options_are_one_sentence(run: Path) -> None:
    trained = TrainedRun.open(run)
    section = differences_section([trained, trained])
    assert section.sentences == ["All options are the same."] and not section.blocks
