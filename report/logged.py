"""The sections made from what a run wrote down: errors, curves, filters, classes, configuration."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.references import published_curve
from evaluation.tables import HEADER, error_rows
from evaluation.trained_run import EvaluationError, TrainedRun
from model.checkpoint import versions
from report.classes import MATRIX_CLASSES, confusions, draw_class_errors, draw_confusions, ends
from report.curves import draw_curves
from report.drawing import Picture, png, short_name
from report.filters import draw_filters
from report.metrics import Metrics, load_metrics
from report.page import Section, Table

EVALUATION_KEYS = frozenset(
    ["date", "split", "images", "classes", "images_per_second", "machine", "reference_note", "checkpoint", "dataset"]
)
WORDS = (("loss", "loss", "{:.3f}"), ("top1_error", "top-1 error", "{:.1%}"), ("top5_error", "top-5 error", "{:.1%}"))
NOT_EVALUATED = "This run has not been evaluated yet: python eval_tenpatch.py --run-dir {run}"


def read_evaluation(run: TrainedRun) -> dict[str, Any] | None:
    """The content of report.json, None if there is none. Raises EvaluationError if this program did not write it."""
    path = run.path / "report.json"
    if not path.is_file():
        return None
    again = f"make it again: python eval_tenpatch.py --run-dir {run.path}"
    try:
        content = json.loads(path.read_text())
        error_rows(content)
        missing = EVALUATION_KEYS - content.keys()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EvaluationError(
            f"{path}: not a report of this program ({type(error).__name__}: {error}); {again}"
        ) from None
    if missing:
        raise EvaluationError(f"{path}: not a report of this program, it lacks {', '.join(sorted(missing))}; {again}")
    return content


def errors_section(run: TrainedRun, evaluation: Mapping[str, Any] | None) -> Section:
    """The errors beside the published ones."""
    title = "Errors beside the references"
    if evaluation is None:
        return Section(name="errors", title=title, sentences=[NOT_EVALUATED.format(run=run.path)])
    sentences = [
        f"{evaluation['images']} images of split {evaluation['split']}, {evaluation['classes']} classes, evaluated "
        f"{evaluation['date']} at {evaluation['images_per_second']:.1f} images/s ({evaluation['machine']})."
    ]
    if evaluation["classes"] <= 5:
        sentences.append("With five classes or fewer the top-5 error is always 0.")
    if evaluation["reference_note"]:
        note = evaluation["reference_note"]
        sentences.append(f"{note[0].upper()}{note[1:]}.")
    measured = evaluation["checkpoint"]
    if measured["step"] != run.state["step"]:
        sentences.append(
            f"These errors are those of step {measured['step']}; everything else on this page is of step "
            f"{run.state['step']}. Evaluate again: python eval_tenpatch.py --run-dir {run.path}"
        )
    table = Table(header=HEADER, rows=[tuple(row) for row in error_rows(evaluation)])
    return Section(name="errors", title=title, sentences=sentences, table=table)


def in_brief(run: TrainedRun, evaluation: Mapping[str, Any] | None) -> list[str]:
    """Lines for the screen: the ten-patch errors, and the training speed (the median over the logged steps)."""
    lines = [NOT_EVALUATED.format(run=run.path)]
    if evaluation is not None:
        top1, top5 = (100 * evaluation["ten_patch"][f"top{n}_error"] for n in (1, 5))
        lines = [f"ten patches, {evaluation['images']} images: top-1 error {top1:.2f} %, top-5 error {top5:.2f} %"]
    try:
        speeds = _metrics(run).training["images_per_second"]
        lines.append(f"trained at {np.nanmedian(speeds):,.0f} images/s")
    except (EvaluationError, KeyError) as error:
        lines.append(f"training speed unknown: {error}")
    return lines


def _metrics(run: TrainedRun) -> Metrics:
    """What the run logged. Raises EvaluationError."""
    steps = run.state["dataset"]["samples"] // run.state["train_config"]["batch_size"]
    return load_metrics(run.path / "metrics.jsonl", steps or None)


def curves_section(run: TrainedRun) -> Section:
    """Training curves, the published ones behind them where the data set is ImageNet."""
    title = "Training curves"
    try:
        metrics = _metrics(run)
    except EvaluationError as error:
        return Section(name="curves", title=title, sentences=[f"No curves: {error}"])
    published = published_curve() if run.challenge else None
    caption = "One point is the mean over a run of steps; validation is the center crop at the end of an epoch."
    if published is not None:
        caption += (
            " Gray: github AsteroidHunter/replicatingAlexNet on ILSVRC-2010, two GPUs; its validation ran through "
            "the training transform."
        )
    picture = Picture(
        name="curves",
        png=png(draw_curves(metrics, published)),
        alternative=_curves_in_words(metrics, published is not None),
        caption=caption,
    )
    return Section(name="curves", title=title, sentences=metrics.notes, pictures=[picture])


def _curves_in_words(metrics: Metrics, published: bool) -> str:
    words = [f"Curves over {metrics.epochs[-1]:.3g} epochs ({int(metrics.steps[-1])} steps)."]
    for name, columns in (("Training", metrics.training), ("Validation", metrics.validation)):
        for column, what, form in WORDS:
            if column in columns:
                first, last = (form.format(columns[column][place]) for place in (0, -1))
                words.append(f"{name} {what} from {first} to {last}.")
    if not metrics.validation:
        words.append("No validation was logged.")
    if published:
        words.append("In gray, the seed's curves over 90 epochs.")
    return " ".join(words)


def filters_section(run: TrainedRun) -> Section:
    """The first layer's filters, tower A above tower B."""
    weights = run.state["model"]["conv1.weight"].float().numpy()
    half = len(weights) // 2
    picture = Picture(
        name="filters",
        png=png(draw_filters(weights)),
        alternative=f"The {len(weights)} filters of conv1, {weights.shape[2]}×{weights.shape[3]} pixels in color: "
        f"tower A's {half} above, tower B's {len(weights) - half} below.",
        caption="Arranged as in Krizhevsky 2012, Figure 3. Gray is a weight of 0; each filter fills its own range.",
    )
    return Section(name="filters", title="First-layer filters", pictures=[picture])


def classes_section(run: TrainedRun, evaluation: Mapping[str, Any] | None) -> Section:
    """Best and worst classes, and the confusion matrix of a small class table."""
    title = "Errors by class"
    table, predictions = run.path / "class_errors.csv", run.path / "predictions.npz"
    missing = [path for path in (table, predictions) if not path.is_file()]
    if evaluation is None or missing:
        return Section(name="classes", title=title, sentences=[NOT_EVALUATED.format(run=run.path)])
    names = run.class_names
    images, top1, top5 = read_class_errors(table)
    pictures = [_class_errors_picture(images, top1, top5, names)]
    if len(names) <= MATRIX_CLASSES:
        with np.load(predictions, allow_pickle=False) as rows:
            counts = confusions(rows["labels"], rows["best"][:, 0], len(names))
        pictures.append(_confusions_picture(counts, names))
        return Section(name="classes", title=title, pictures=pictures)
    sentence = f"No confusion matrix: there are {len(names)} classes, and it is drawn for at most {MATRIX_CLASSES}."
    return Section(name="classes", title=title, sentences=[sentence], pictures=pictures)


def read_class_errors(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images int64, top-1 and top-5 errors float64 [classes], from class_errors.csv. Raises EvaluationError."""
    try:
        with path.open(newline="") as lines:
            rows = [
                (int(row["images"]), float(row["top1_errors"]), float(row["top5_errors"]))
                for row in csv.DictReader(lines)
            ]
    except (KeyError, ValueError) as error:
        raise EvaluationError(f"{path}: not the table that eval_tenpatch.py writes ({error}); evaluate again") from None
    images, top1, top5 = zip(*rows)
    return np.array(images), np.array(top1), np.array(top5)


def _class_errors_picture(images: np.ndarray, top1: np.ndarray, top5: np.ndarray, names: list[str]) -> Picture:
    with np.errstate(invalid="ignore", divide="ignore"):
        best, worst = ends(top1 / images)
    said = [
        ", ".join(f"{short_name(names[label])} {top1[label] / images[label]:.1%}" for label in chosen[:5])
        for chosen in (best, worst)
    ]
    return Picture(
        name="classes",
        png=png(draw_class_errors(images, top1, top5, names)),
        alternative=f"Top-1 error by class. Lowest: {said[0]}. Highest: {said[1] or 'none'}.",
        caption="Ten patches. In brackets the number of images of the class. All classes are in class_errors.csv.",
    )


def _confusions_picture(counts: np.ndarray, names: list[str]) -> Picture:
    wrong = counts - np.diag(np.diag(counts))
    row, column = np.unravel_index(wrong.argmax(), wrong.shape)
    most = (
        f"The most frequent confusion: {names[row]} taken for {names[column]}, {wrong[row, column]} times."
        if wrong.any()
        else "No image is confused."
    )
    return Picture(
        name="confusions",
        png=png(draw_confusions(counts, names)),
        alternative=f"Confusion matrix of {counts.sum()} images: {np.trace(counts)} on the diagonal. {most}",
        caption="Rows are true classes, columns best guesses; shaded by the share of the true class.",
    )


def configuration_section(run: TrainedRun, evaluation: Mapping[str, Any] | None) -> Section:
    """Config, versions and checksums, a row each."""
    state = run.state
    rows = [(f"train: {name}", str(value)) for name, value in sorted(state["train_config"].items())]
    rows += [(f"model: {name}", str(value)) for name, value in sorted(state["model_config"].items())]
    data = state["dataset"]
    rows += [
        ("training data", f"{data['shards']} ({data['samples']} images, {len(data['classes'])} classes)"),
        ("training data, checksum", data["fingerprint"]),
        ("checkpoint", str(run.checkpoint)),
        ("checkpoint, SHA-256", run.checksum()),
    ]
    if evaluation is not None:
        held_out = evaluation["dataset"]
        rows += [
            ("evaluated data", f"{held_out['shards']} ({held_out['samples']} images)"),
            ("evaluated data, checksum", held_out["fingerprint"]),
            ("evaluated checkpoint, SHA-256", evaluation["checkpoint"]["sha256"]),
        ]
    for when, found in (("trained with", state["versions"]), ("this page made with", versions())):
        rows.append((when, ", ".join(f"{name} {version}" for name, version in sorted(found.items()))))
    return Section(
        name="configuration",
        title="Configuration, versions, checksums",
        table=Table(header=("what", "value"), rows=[tuple(row) for row in rows]),
    )
