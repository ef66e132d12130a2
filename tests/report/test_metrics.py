"""metrics.jsonl → columns over epochs."""

import json
from pathlib import Path

import numpy as np
import pytest

from evaluation.trained_run import EvaluationError, TrainedRun
from report import curves
from report.curves import Metrics, read_metrics, thinned
from tests.handmade import metrics


def load(folder: Path, text: str | None) -> Metrics:
    """What is read of a run of five steps an epoch that logged `text`."""
    if text is not None:
        (folder / "metrics.jsonl").write_text(text)
    state = {"dataset": {"samples": 10}, "train_config": {"batch_size": 2}}
    return read_metrics(TrainedRun(path=folder, checkpoint=folder / "last.pt", state=state))


def lines(epochs: int = 3) -> str:
    return "".join(json.dumps(line) + "\n" for line in metrics(steps_per_epoch=5, epochs=epochs))


def test_columns_are_what_was_logged(tmp_path: Path) -> None:
    found = load(tmp_path, lines())
    np.testing.assert_array_equal(found.training["step"], np.arange(1, 16))
    np.testing.assert_allclose(found.training["epoch"], np.arange(1, 16) / 5)
    np.testing.assert_allclose(found.training["loss"], 2 / np.arange(1, 16))
    np.testing.assert_allclose(found.training["rate"], np.repeat([0.01, 0.001, 0.0001], 5))
    np.testing.assert_allclose(found.training["images_per_second"], 100 + np.arange(1, 16))
    np.testing.assert_allclose(found.training["top5_error"], 0.5 / np.arange(1, 16))
    assert set(found.training) == {
        "step",
        "epoch",
        "loss",
        "top1_error",
        "top5_error",
        "rate",
        "images_per_second",
        "data_wait_fraction",
    }
    np.testing.assert_array_equal(found.validation["epoch"], [1, 2, 3])  # an epoch's validation is at its end
    np.testing.assert_allclose(found.validation["loss"], [1.5, 0.75, 0.5])
    np.testing.assert_allclose(found.validation["top5_error"], [0.1, 0.1, 0.1])
    assert found.notes == []


def test_epochs_are_told_by_steps_not_by_how_a_program_counts_them(tmp_path: Path) -> None:
    text = '{"step": 5, "epoch": 7, "loss": 2}\n{"step": 5, "epoch": 7, "validation": {"loss": 1}}\n'
    found = load(tmp_path, text)
    assert found.training["epoch"].tolist() == found.validation["epoch"].tolist() == [1]


def test_steps_that_fall_back_are_noted(tmp_path: Path) -> None:
    found = load(tmp_path, lines() + lines())
    assert found.notes == ["Steps do not always rise in metrics.jsonl: more than one training may have written there."]


def test_a_value_that_a_line_lacks_is_nan(tmp_path: Path) -> None:
    text = '{"step": 1, "epoch": 0, "loss": 2.0}\n{"step": 2, "epoch": 0, "loss": null, "top5_error": 0.5}\n'
    found = load(tmp_path, text)
    np.testing.assert_array_equal(found.training["loss"], [2.0, np.nan])
    np.testing.assert_array_equal(found.training["top5_error"], [np.nan, 0.5])
    assert found.validation == {}


def test_a_torn_last_line_is_left_out_with_a_note(tmp_path: Path) -> None:
    found = load(tmp_path, lines() + '{"step": 16, "ep')
    assert found.training["step"][-1] == 15
    assert found.notes == ["The last line of metrics.jsonl is incomplete and was left out."]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (None, "no such file"),
        ("", "no training step"),
        ('{"step": 5, "epoch": 0, "validation": {"loss": 1}}\n', "no training step"),
        ("null\n", r"jsonl:1: expected a line that train.py writes, got 'null' \(expected an object, got NoneType\)"),
        ('{"step": 1, "loss": 2}\n[1]\n', "jsonl:2: expected a line that train.py writes"),
        ('{"loss": 2}\n', "field 'step': expected int"),
        ('{"step": true}\n', "field 'step': expected int"),
        ('{"step": 1, "validation": 3}\n', "expected a line that train.py writes"),
        ('{"step": "1", "validation": {"loss": 1}}\n', "field 'step': expected int"),
        ('{"step": 1, "loss": "low"}\n', "field 'loss': expected float"),
        ('{"step": 1, "loss": NaN}\n', "field 'loss': expected float"),
        (
            '{"step": 1, "epoch": 0}\nnonsense\n{"step": 2, "epoch": 0}\n',
            r"jsonl:2: expected a line that train.py writes, got 'nonsense'",
        ),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path: Path, text: str | None, what: str) -> None:
    with pytest.raises(EvaluationError, match=what):
        load(tmp_path, text)


def test_bins_are_means_of_equal_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "BINS", 10)
    x, y = np.arange(1000.0), np.arange(1000.0) ** 2
    thin_x, thin_y = thinned(x, y)
    np.testing.assert_allclose(thin_x, x.reshape(10, 100).mean(axis=1))
    np.testing.assert_allclose(thin_y, y.reshape(10, 100).mean(axis=1))
    few_x, few_y = thinned(x[:7], y[:7])
    np.testing.assert_array_equal(few_x, x[:7])
    np.testing.assert_array_equal(few_y, y[:7])


def test_bins_leave_out_what_is_not_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "BINS", 3)
    x, y = thinned(np.arange(5.0), np.array([1, np.nan, 3, np.inf, 5]))
    assert x.tolist() == [0, 2, 4] and y.tolist() == [1, 3, 5]
