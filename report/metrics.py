"""`metrics.jsonl` in, columns over epochs out, thinned to what a plot can show."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.results import check_fields
from evaluation.trained_run import EvaluationError

COLUMNS = ("loss", "top1_error", "top5_error", "rate", "images_per_second", "data_wait_fraction", "memory_bytes")
BINS = 400


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """What a run logged. Every array float64; `training` columns [lines], `validation` columns [epochs validated].

    `epochs` [lines] and `validation_epochs` count epochs done (the end of the first epoch is 1.0). A column that no
    line has is absent, a value that a line lacks is NaN. `notes` are sentences on what was left out or is odd.
    """

    steps: np.ndarray
    epochs: np.ndarray
    training: dict[str, np.ndarray]
    validation_epochs: np.ndarray
    validation: dict[str, np.ndarray]
    notes: list[str] = field(default_factory=list)


def load_metrics(path: Path, steps_per_epoch: int) -> Metrics:
    """Read a run's `metrics.jsonl`.

    A torn last line (the run is going on, or was killed) is left out with a note. Raises EvaluationError when the file
    is absent, has no training line, or has another kind of line elsewhere.
    """
    if not path.is_file():
        raise EvaluationError(f"{path}: no such file; has train.py run in this folder?")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    records, notes = [], []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            check_fields(record, {"step": int})
            figures = record.get("validation", record)
            check_fields(figures, {name: float for name in COLUMNS if figures.get(name) is not None})
        except (ValueError, AttributeError, RecursionError) as error:
            if isinstance(error, json.JSONDecodeError) and number == len(lines):
                notes.append("The last line of metrics.jsonl is incomplete and was left out.")
                break
            message = f"expected a line that train.py writes, got {line[:80]!r} ({error})"
            raise EvaluationError(f"{path}:{number}: {message}") from None
        records.append(record)
    trained = [record for record in records if "validation" not in record]
    validated = [record for record in records if "validation" in record]
    if not trained:
        raise EvaluationError(f"{path}: no training step is logged there yet")
    steps = np.array([record["step"] for record in trained], np.float64)
    if (np.diff(steps) <= 0).any():
        notes.append("Steps do not always rise in metrics.jsonl: more than one training may have written there.")
    return Metrics(
        steps=steps,
        epochs=steps / steps_per_epoch,
        training=_columns(trained),
        validation_epochs=np.array([record["step"] / steps_per_epoch for record in validated]),
        validation=_columns([record["validation"] for record in validated]),
        notes=notes,
    )


def _columns(records: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    columns = {name: np.array([record.get(name) for record in records], np.float64) for name in COLUMNS}  # None is NaN
    return {name: column for name, column in columns.items() if not np.isnan(column).all()}


def thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most `BINS` points: the means of x and of y over equal runs of consecutive points (NaN left out)."""
    finite = np.isfinite(y)
    x, y = x[finite], y[finite]
    edges = np.linspace(0, len(x), min(BINS, len(x)) + 1).round().astype(int)[:-1]
    if not len(edges):
        return x, y
    counts = np.diff([*edges, len(x)])
    return np.add.reduceat(x, edges) / counts, np.add.reduceat(y, edges) / counts
