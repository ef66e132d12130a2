"""What an evaluation leaves in the run's folder, written and read: report.json, predictions.npz, class_errors.csv.

Every reader checks what it reads here, in one place: a file of another program is an error that names file and field.
class_errors.csv is for people and spreadsheets; no program of ours reads it.
"""

import datetime
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.files import write_atomically
from evaluation.references import reference_note, references_for
from evaluation.tables import METHODS, class_errors_csv, error_rows
from evaluation.ten_patch import Evaluation
from evaluation.trained_run import EvaluationError, TrainedRun
from model.checkpoint import versions
from sharding import ShardSet

LARGEST = 1e300  # of the numbers in a report: an integer in JSON may be too large to print as a fraction
REPORT, PREDICTIONS, CLASS_ERRORS = "report.json", "predictions.npz", "class_errors.csv"
_NUMBER = (int, float)
_FIELDS: dict[str, Any] = {  # of report.json, as far as they are read; those of a method are in _FIGURES
    "date": str,
    "split": str,
    "machine": str,
    "images": int,
    "classes": int,
    "images_per_second": _NUMBER,
    "references": list,
    "reference_note": str,
    "checkpoint": {"step": int, "sha256": str},
    "dataset": {"shards": str, "fingerprint": str, "samples": int},
}
_FIGURES = {"top1_error": _NUMBER, "top5_error": _NUMBER, "log_loss": _NUMBER}


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """The answers for a split, image by image, best class first: labels int64 [n], best int32 and probability
    float32 [n, k]. Row i is sample i of the split."""

    labels: np.ndarray
    best: np.ndarray
    probability: np.ndarray

    def correct(self, guesses: int = 1) -> np.ndarray:
        """Whether the true class is among the best `guesses`: bool [n]."""
        return (self.best[:, :guesses] == self.labels[:, None]).any(axis=1)


def describe(run: TrainedRun, shards: ShardSet, evaluation: Evaluation, machine: str, seconds: float) -> dict[str, Any]:
    """The content of report.json. Errors are fractions, log loss in nats, intervals at 95 %."""
    return {
        "format": 1,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "name": f"{run.challenge} {shards.split}" if run.challenge else None,
        "split": shards.split,
        "images": len(evaluation.ids),
        "classes": len(shards.classes),
        **{method: scores.figures() for method, scores in evaluation.scores.items()},
        "references": [asdict(item) for item in references_for(run.challenge, shards.split)],
        "reference_note": reference_note(run.challenge, shards.split, len(evaluation.ids)),
        "model": run.state["model_config"],
        "checkpoint": {
            "file": str(run.checkpoint),
            "sha256": run.checksum(),
            "epoch": run.state["epoch"],
            "step": run.state["step"],
        },
        "dataset": {"shards": str(shards.path), "fingerprint": shards.fingerprint, "samples": len(shards)},
        "training_dataset": {key: run.state["dataset"][key] for key in ("shards", "fingerprint", "samples")},
        "machine": machine,
        "seconds": round(seconds, 3),
        "images_per_second": round(len(evaluation.ids) / seconds, 3),
        "versions": versions(),
    }


def write_results(run: TrainedRun, evaluation: Evaluation, report: dict[str, Any]) -> None:
    """Write the three files into the run's folder, report.json last."""
    rows = io.BytesIO()
    np.savez_compressed(
        rows, ids=evaluation.ids, labels=evaluation.labels, best=evaluation.best, probability=evaluation.probability
    )
    for name, content in (
        (CLASS_ERRORS, class_errors_csv(run.classes, evaluation.scores["ten_patch"]).encode()),
        (PREDICTIONS, rows.getvalue()),
        (REPORT, (json.dumps(report, indent=2) + "\n").encode()),
    ):
        with write_atomically(run.path / name) as file:
            file.write(content)


def read_report(run: Path) -> dict[str, Any] | None:
    """The content of a run's report.json, None if there is none. Raises EvaluationError if it is another program's."""
    path = run / REPORT
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text())
        _check_fields(content, _FIELDS | dict.fromkeys(METHODS, _FIGURES), "")
        error_rows(content)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise _foreign(path, f"{type(error).__name__}: {error}") from None
    return content


def _check_fields(content: Any, types: Mapping[str, Any], prefix: str) -> None:
    """Raises ValueError with the name of the first field that is absent or of another type."""
    if not isinstance(content, dict):
        raise ValueError(f"expected an object{prefix and f' under {prefix[:-1]!r}'}, got {type(content).__name__}")
    for name, kind in types.items():
        value = content.get(name)
        if isinstance(kind, dict):
            _check_fields(value, kind, f"{prefix}{name}.")
        elif not isinstance(value, kind) or isinstance(value, bool):
            expected = "number" if kind is _NUMBER else kind.__name__
            raise ValueError(f"field {prefix + name!r}: expected {expected}, got {value!r}")
        elif not isinstance(value, str | list) and not abs(value) < LARGEST:
            raise ValueError(f"field {prefix + name!r}: expected a number below {LARGEST}")


def read_predictions(run: Path, classes: int) -> Predictions | None:
    """A run's predictions.npz, None if there is none. Raises EvaluationError if it is not one for `classes` classes."""
    path = run / PREDICTIONS
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as rows:
            ids, labels, best, probability = (rows[name] for name in ("ids", "labels", "best", "probability"))
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise _foreign(path, str(error)) from None
    shapes = f"ids {ids.shape}, labels {labels.shape}, best {best.shape}, probability {probability.shape}"
    if labels.ndim != 1 or best.ndim != 2 or not best.size or best.shape != probability.shape:
        raise _foreign(path, f"shapes {shapes}")
    if ids.shape != labels.shape or len(best) != len(labels) or not np.array_equal(ids, np.arange(len(ids))):
        raise _foreign(path, f"expected a row for each sample 0..{len(ids) - 1} in order, got {shapes}")
    for name, values in (("labels", labels), ("best", best)):
        if values.dtype.kind not in "iu" or not 0 <= values.min() <= values.max() < classes:
            raise _foreign(path, f"{name}: expected whole numbers in 0..{classes - 1}")
    if probability.dtype.kind != "f" or not np.isfinite(probability).all():
        raise _foreign(path, "probability: expected finite numbers")
    return Predictions(labels=labels, best=best, probability=probability)


def _foreign(path: Path, what: str) -> EvaluationError:
    return EvaluationError(
        f"{path}: not what eval_tenpatch.py writes ({what}); make it again: "
        f"python eval_tenpatch.py --run-dir {path.parent}"
    )
