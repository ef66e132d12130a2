"""`metrics.jsonl` in, columns over epochs out, thinned to what a plot can show."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from evaluation.trained_run import EvaluationError

TRAINING = ("loss", "top1_error", "top5_error", "rate", "images_per_second")
VALIDATION = ("loss", "top1_error", "top5_error")
BINS = 400


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """What a run logged. Every array float64; `training` columns [lines], `validation` columns [epochs validated].

    `epochs` [lines] and `validation_epochs` count epochs done (the end of the first epoch is 1.0). A column that no
    line has is absent, a value that a line lacks is NaN. `notes` are sentences on what was left out.
    """

    steps: np.ndarray
    epochs: np.ndarray
    training: dict[str, np.ndarray]
    validation_epochs: np.ndarray
    validation: dict[str, np.ndarray]
    notes: list[str] = field(default_factory=list)


def load_metrics(path: Path, steps_per_epoch: int | None) -> Metrics:
    """Read a run's `metrics.jsonl`.

    A torn last line (the run is going on, or was killed) is left out with a note. Raises EvaluationError when the file
    is absent, has no training line, or has a broken line elsewhere.
    """
    if not path.is_file():
        raise EvaluationError(f"{path}: no such file; has train.py run in this folder?")
    lines = path.read_text().splitlines()
    records, notes = [], []
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise EvaluationError(
                    f"{path}:{number}: expected one JSON object, got {line[:40]!r} ({error.msg})"
                ) from None
            notes.append("The last line of metrics.jsonl is incomplete and was left out.")
    trained = [record for record in records if "validation" not in record]
    validated = [record for record in records if "validation" in record]
    if not trained:
        raise EvaluationError(f"{path}: no training step is logged there yet")
    steps = np.array([record["step"] for record in trained], np.float64)
    return Metrics(
        steps=steps,
        epochs=steps / (steps_per_epoch or _longest_epoch(trained)),
        training=_columns(trained, TRAINING),
        validation_epochs=np.array([record["epoch"] + 1.0 for record in validated]),
        validation=_columns([record["validation"] for record in validated], VALIDATION),
        notes=notes,
    )


def _longest_epoch(trained: list[dict]) -> float:
    """Steps per epoch, as far as the log itself tells it."""
    last: dict[int, int] = {}
    for record in trained:
        last[record["epoch"]] = max(record["step"], last.get(record["epoch"], 0))
    return max(last.values()) / len(last)


def _columns(records: list[dict], names: tuple[str, ...]) -> dict[str, np.ndarray]:
    present = [name for name in names if any(record.get(name) is not None for record in records)]
    return {
        name: np.array([np.nan if record.get(name) is None else float(record[name]) for record in records])
        for name in present
    }


def binned(x: np.ndarray, y: np.ndarray, bins: int = BINS) -> tuple[np.ndarray, np.ndarray]:
    """At most `bins` points: the means of x and of y over equal runs of consecutive points (NaN left out)."""
    keep = np.isfinite(y)
    x, y = x[keep], y[keep]
    edges = np.linspace(0, len(x), min(bins, len(x)) + 1).round().astype(int)[:-1]
    if not len(edges):
        return x, y
    counts = np.diff([*edges, len(x)])
    return np.add.reduceat(x, edges) / counts, np.add.reduceat(y, edges) / counts
