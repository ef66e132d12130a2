"""What an evaluation leaves in the run's folder, written and read: report.json, predictions.npz, class_errors.csv.

Every reader checks what it reads here, in one place: a file of another program is an error that names file and field.
class_errors.csv is for people and spreadsheets; no program of ours reads it.
"""

import datetime
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from common.files import write_atomically, write_text
from evaluation.references import reference_note, references_for
from evaluation.tables import FIGURES, METHODS, PairedDifference, class_errors_csv, compare_answers, error_rows
from evaluation.ten_patch import Evaluation, Predictions
from evaluation.trained_run import EvaluationError, TrainedRun
from model.checkpoint import versions
from sharding import ShardSet

REPORT, PREDICTIONS, CLASS_ERRORS = "report.json", "predictions.npz", "class_errors.csv"
NOT_EVALUATED = "Not evaluated yet: python eval_tenpatch.py --run-dir {run}"
AVERAGE = "average"  # the folder, in the first run's, of what several networks' mean leaves
LARGEST = 1e300  # of the numbers in JSON: an integer there may be too large to print as a fraction
_FIELDS: dict[str, Any] = {  # of report.json, as far as they are read; a float may be an integer
    **dict.fromkeys(("date", "split", "machine", "reference_note"), str),
    **dict.fromkeys(("images", "classes"), int),
    **{"images_per_second": float, "references": list},
    "checkpoint": {"step": int, "sha256": str},
    "dataset": {"shards": str, "fingerprint": str, "samples": int},
    **{method: dict.fromkeys(FIGURES, float) for method in METHODS},
}
_MEMBER_FIELDS = {"file": str, "sha256": str, **{name: dict.fromkeys(FIGURES, float) for name in ("ten_patch", "gain")}}


def describe(
    runs: Sequence[TrainedRun], shards: ShardSet, evaluation: Evaluation, machine: str, seconds: float
) -> dict[str, Any]:
    """The content of report.json. Errors are fractions, log loss in nats, intervals at 95 %.

    Of several runs the figures are their mean's, the first one is described, and `members` holds each: its ten-patch
    figures, and `gain`, by how much its error is above the mean's.
    """
    run, state, mean = runs[0], runs[0].state, dict(evaluation.scores["ten_patch"].figures())
    members: list[dict[str, Any]] = []
    for member, scores in zip(runs, list(evaluation.scores.values())[len(METHODS) :]):
        figures: dict[str, Any] = dict(scores.figures())
        gain = {name: figures[name] - mean[name] for name in FIGURES}
        file = {"file": str(member.checkpoint), "sha256": member.checksum()}
        members.append({**file, "ten_patch": figures, "gain": gain})
    references = references_for(run.challenge, shards.split, averages=len(runs) > 1)
    return {
        "format": 1,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "name": f"{run.challenge} {shards.split}" if run.challenge else None,
        "split": shards.split,
        "images": len(shards),
        "classes": len(shards.classes),
        **{method: evaluation.scores[method].figures() for method in METHODS},
        "members": members,
        "references": [asdict(item) for item in references],
        "reference_note": reference_note(run.challenge, shards.split, len(shards)),
        "model": state["model_config"],
        "checkpoint": {"file": str(run.checkpoint), "sha256": run.checksum()}
        | {name: state[name] for name in ("epoch", "step")},
        "dataset": {"shards": str(shards.path), "fingerprint": shards.fingerprint, "samples": len(shards)},
        "training_dataset": {name: state["dataset"][name] for name in ("shards", "fingerprint", "samples")},
        "machine": machine,
        "seconds": round(seconds, 3),
        "images_per_second": round(len(shards) / seconds, 3),
        "versions": versions(),
    }


def write_results(folder: Path, run: TrainedRun, evaluation: Evaluation, report: dict[str, Any]) -> None:
    """Write the three files into `folder`, report.json last."""
    with write_atomically(folder / PREDICTIONS) as file:
        np.savez_compressed(file, **evaluation.rows._asdict())
    by_class = class_errors_csv(run.classes, evaluation.scores["ten_patch"])
    for name, text in ((CLASS_ERRORS, by_class), (REPORT, json.dumps(report, indent=2) + "\n")):
        write_text(folder / name, text)


def check_fields(content: Any, types: Mapping[str, Any], prefix: str = "") -> None:
    """Check an object of JSON. Raises ValueError with the name of the first field that is absent or of another type."""
    if not isinstance(content, dict):
        raise ValueError(f"expected an object{prefix and f' under {prefix[:-1]!r}'}, got {type(content).__name__}")
    for name, kind in types.items():
        value: Any = content.get(name)
        if isinstance(kind, dict):
            check_fields(value, kind, f"{prefix}{name}.")
            continue
        fits = isinstance(value, int | float if kind is float else kind) and not isinstance(value, bool)
        if not fits or (kind in (int, float) and not abs(value) < LARGEST):
            raise ValueError(f"field {prefix + name!r}: expected {kind.__name__}, got {str(value)[:40]!r}")


def read_report(run: Path) -> dict[str, Any] | None:
    """The report.json of a run or of an average, None if there is none. Raises EvaluationError if it is foreign."""
    path = run / REPORT
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text())
        check_fields(content, _FIELDS)
        for member in content.get("members", []):
            check_fields(member, _MEMBER_FIELDS, "members.")
        error_rows(content)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _foreign(path, f"{type(error).__name__}: {error}") from None
    return content


def read_predictions(run: Path, classes: int) -> Predictions | None:
    """A run's predictions.npz, None if there is none. Raises EvaluationError if it is not one for `classes` classes."""
    path = run / PREDICTIONS
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as rows:
            answers = Predictions(*(rows[name] for name in Predictions._fields))
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise _foreign(path, str(error)) from None

    def whole(values: np.ndarray) -> bool:
        return bool(values.dtype.kind in "iu" and values.size and 0 <= values.min() <= values.max() < classes)

    ids, labels, best, probability = answers
    rows_expected = best.shape[0] if best.ndim == 2 else 0
    rules = {
        "expected rows": best.size and rows_expected,
        "expected a row for each sample, in order": np.array_equal(ids, np.arange(rows_expected)),
        "expected a label for each row": labels.shape == ids.shape,
        "expected a probability for each guess": probability.shape == best.shape,
        f"labels: expected whole numbers in 0..{classes - 1}": whole(labels),
        f"best: expected whole numbers in 0..{classes - 1}": whole(best),
        "probability: expected finite numbers": probability.dtype.kind == "f" and np.isfinite(probability).all(),
    }
    for rule, holds in rules.items():
        if not holds:
            raise _foreign(path, rule)
    return answers


def compare_runs(run: Path, baseline: Path) -> list[PairedDifference]:
    """By how much the top-1 and the top-5 error of `run` differ from those of `baseline` for the same images.

    Raises EvaluationError if one is not evaluated, or they were evaluated on other images.
    """
    answers, images = [], {}
    for path in (run, baseline):
        report = read_report(path)
        found = read_predictions(path, report["classes"]) if report else None
        if report is None or found is None:
            raise EvaluationError(NOT_EVALUATED.format(run=path))
        answers.append(found)
        dataset, count = report["dataset"], len(found.labels)
        images[dataset["fingerprint"], count] = f"{path} was evaluated on {dataset['shards']} ({count:,} images)"
    if len(images) > 1:
        raise EvaluationError(f"{', '.join(images.values())}: evaluate both on the same split to compare them")
    ours, theirs = answers
    return [compare_answers(theirs.correct(guesses), ours.correct(guesses)) for guesses in (1, 5)]


def _foreign(path: Path, what: str) -> EvaluationError:
    runs = f"{path.parent.parent} B…" if path.parent.name == AVERAGE else path.parent
    again = f"make it again: python eval_tenpatch.py --run-dir {runs}"
    return EvaluationError(f"{path}: not what eval_tenpatch.py writes ({what}); {again}")
