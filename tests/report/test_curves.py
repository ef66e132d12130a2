"""What is drawn over epochs is what was logged; what was not is said."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation.references import published_curve
from evaluation.trained_run import TrainedRun
from report import curves
from report.curves import curves_section
from report.drawing import Line, draw_lines
from report.page import Charts, Section
from tests.handmade import metrics


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[Line], str, float]]:
    """What `draw_lines` is given, panel by panel."""
    given: list[tuple[list[Line], str, float]] = []

    def recorded(lines: Sequence[Line], form: Any, last: float) -> Any:
        given.append((list(lines), form, last))
        return draw_lines(lines, form, last)

    monkeypatch.setattr(curves, "draw_lines", recorded)
    return given


def charts(section: Section) -> Charts:
    (block,) = section.blocks
    assert isinstance(block, Charts)
    return block


def rewrite(run: Path, lines: list[dict[str, object]]) -> None:
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_each_column_is_a_panel_with_the_logged_numbers(run: Path, drawn: list[Any], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    rewrite(copy, [line | {"memory_bytes": 3_000_000_000} for line in metrics(3)])
    section = curves_section([TrainedRun.open(copy)])
    titles = [chart.title for chart in charts(section).charts]
    assert titles == ["log loss (nats)", "top-1 error", "top-5 error", "rate", "images/s", "waiting for data", "memory at most (GB)"]  # fmt: skip # noqa: E501
    assert section.sentences == []
    assert charts(section).legend == [("blue", "training"), ("orange", "validation")]
    panels = dict(zip(titles, drawn, strict=True))
    steps = np.arange(1, 10)
    for title, values in (
        ("log loss (nats)", 2 / steps),
        ("top-1 error", 1 / steps),
        ("images/s", 100.0 + steps),
        ("waiting for data", np.full(9, 0.01)),
        ("memory at most (GB)", np.full(9, 3.0)),
    ):
        training = panels[title][0][0]
        np.testing.assert_allclose(training.x, steps / 3)
        np.testing.assert_allclose(training.y, values)
        assert training.color == "blue" and not training.steps
    validation = panels["log loss (nats)"][0][1]
    assert (validation.x.tolist(), validation.y.tolist(), validation.color) == ([1, 2, 3], [1.5, 0.75, 0.5], "orange")
    rate = panels["rate"][0][0]
    assert rate.steps and panels["rate"][1] == "log"
    np.testing.assert_allclose(rate.x, steps / 3)
    np.testing.assert_allclose(rate.y, np.repeat([0.01, 0.001, 0.0001], 3))
    assert {last for _, _, last in drawn} == {3.0}  # epochs stand below epochs
    assert "Training from 2 to 0.2222. Validation from 1.5 to 0.5." in charts(section).charts[0].alternative


def test_five_classes_have_no_panel_for_top_5(run: Path) -> None:
    opened = TrainedRun.open(run)
    few = replace(opened, state=opened.state | {"dataset": opened.state["dataset"] | {"classes": opened.classes[:5]}})
    section = curves_section([few])
    assert "top-5 error" not in [chart.title for chart in charts(section).charts]
    assert "With five classes or fewer the top-5 error is always 0: it has no panel." in section.sentences


def test_what_was_not_logged_is_said(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    rewrite(copy, [{"step": 1, "epoch": 1, "loss": 2.0}])
    section = curves_section([TrainedRun.open(copy)])
    assert [chart.title for chart in charts(section).charts] == ["log loss (nats)"]
    absent = "top-1 error, top-5 error, rate, images/s, waiting for data, memory at most (GB)"
    assert section.sentences == [f"Not shown: {absent}."]


def test_the_published_curve_lies_behind_on_imagenet(
    run: Path, drawn: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainedRun, "challenge", "ILSVRC-2010")
    section, published = curves_section([TrainedRun.open(run)]), published_curve()
    assert ("gray", "the seed") in charts(section).legend and "replicatingAlexNet" in charts(section).caption
    lines, _, last = drawn[0]
    assert [line.color for line in lines] == ["gray", "gray", "blue", "orange"]  # drawn first, so below
    np.testing.assert_array_equal(lines[0].y, published["training_loss"])
    np.testing.assert_array_equal(lines[1].y, published["validation_loss"])
    assert (lines[0].dashed, lines[1].dashed, last) == (False, True, 90)
    rate = drawn[3][0][0]
    assert rate.steps
    np.testing.assert_array_equal(rate.y, published["rate"])


def test_runs_lie_over_each_other_in_colors_of_their_own(run: Path, drawn: list[Any], tmp_path: Path) -> None:
    other, bare = (Path(shutil.copytree(run, tmp_path / name)) for name in ("longer", "bare"))
    rewrite(other, metrics(3, epochs=5))
    (bare / "metrics.jsonl").unlink()
    section = curves_section([TrainedRun.open(path) for path in (run, bare, other)])
    assert charts(section).legend == [("blue", str(run)), ("green", str(other))]
    assert section.sentences[0].startswith(f"No curves: {bare / 'metrics.jsonl'}: no such file")
    lines, _, last = drawn[0]
    assert [(line.color, line.dashed) for line in lines] == [
        ("blue", False), ("blue", True), ("green", False), ("green", True)
    ]  # fmt: skip
    assert [len(line.x) for line in lines] == [9, 3, 15, 5] and last == 5
