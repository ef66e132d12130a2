"""The section on errors by class: best and worst, a table of all, and the confusion matrix of a small class table."""

import numpy as np
from sklearn.metrics import confusion_matrix

from common import ceil_div
from evaluation.results import Predictions
from evaluation.trained_run import TrainedRun
from report.confusions import confused_pairs
from report.drawing import short_name
from report.page import Bar, Cell, Section, Table

SHOWN = 12  # classes at each end
MATRIX_CLASSES = 30


def classes_section(run: TrainedRun, predictions: Predictions) -> Section:
    """Best and worst classes, all of them in a table, the confusion matrix where it is small enough to read."""
    names, labels = run.class_names, predictions.labels
    images = np.bincount(labels, minlength=len(names))
    wrong = [
        np.bincount(labels[~predictions.correct(guesses)], minlength=len(names))
        for guesses in ((1, 5) if len(names) > 5 else (1,))
    ]
    taken_for: dict[int, str] = {}
    for label, guess, count in confused_pairs(predictions, len(names)).tolist():
        taken_for.setdefault(label, f"{short_name(names[guess])} ({count:,})")
    rows = []
    for label, wnid, _ in run.classes:
        errors = [_share(counts[label], images[label]) for counts in wrong]
        about = (taken_for.get(label, ""), str(label), str(wnid or ""))
        rows.append((short_name(names[label], 40), f"{images[label]:,}", *errors, *about))
    errors_header = ("top-1 error", "top-5 error")[: len(wrong)]
    header = ("class", "images", *errors_header, "most often taken for", "label", "wnid")
    with np.errstate(invalid="ignore", divide="ignore"):
        best, worst = ends(wrong[0] / images)
    blocks = [
        Table(header=header, rows=[rows[label] for label in chosen], caption=caption)
        for chosen, caption in ((best, "Lowest error."), (worst, "Highest error."))
        if len(chosen) and len(names) > SHOWN
    ]
    caption = "All classes, ten patches; class_errors.csv has the same."
    blocks.append(Table(header=header, rows=rows, form="sortable", caption=caption))
    if len(names) <= MATRIX_CLASSES:
        blocks.append(_matrix(predictions, names))
    return Section(name="classes", title="Errors by class", blocks=blocks)


def ends(errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Classes with the lowest errors (best first) and with the highest above 0 (worst first); no class is in both.

    errors: float [classes], NaN for a class without images, which is left out.
    """
    order = np.lexsort((np.arange(len(errors)), errors))
    order = order[np.isfinite(errors[order])]
    count = min(SHOWN, ceil_div(len(order), 2))
    worst = order[count:][::-1][:SHOWN]
    return order[:count], worst[errors[worst] > 0]


def _share(wrong: int, images: int) -> Cell:
    return Bar(text=f"{wrong / images:.1%}", share=wrong / images) if images else "no images"


def _matrix(predictions: Predictions, names: list[str]) -> Table:
    counts = confusion_matrix(predictions.labels, predictions.best[:, 0], labels=np.arange(len(names)))
    short = [short_name(name, 18) for name in names]
    rows: list[tuple[Cell, ...]] = [
        (name, *(Bar(text=str(count), share=count / max(row.sum(), 1)) if count else "" for count in row))
        for name, row in zip(short, counts)
    ]
    caption = (
        f"Confusion matrix: {counts.trace():,} of {counts.sum():,} images on the diagonal. Rows are true classes, "
        "columns best guesses; shaded by the share of the true class."
    )
    return Table(header=("", *short), rows=rows, form="matrix", caption=caption)
