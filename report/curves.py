"""The section on curves: metrics.jsonl in, a panel for each logged column out, the published run behind on ImageNet."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from evaluation.references import published_curve
from evaluation.results import check_fields
from evaluation.trained_run import EvaluationError, TrainedRun
from report.drawing import COLORS, Line, draw_lines, svg
from report.page import Chart, Charts, Section

BINS = 400  # a curve has at most so many points


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A column of metrics.jsonl and how it is drawn: `form` of the axis, `scale` of its numbers."""

    column: str
    title: str
    form: Literal["number", "percent", "log"] = "number"
    scale: float = 1.0


PANELS = (
    Panel(column="loss", title="log loss (nats)"),
    Panel(column="top1_error", title="top-1 error", form="percent"),
    Panel(column="top5_error", title="top-5 error", form="percent"),
    Panel(column="rate", title="rate", form="log"),
    Panel(column="images_per_second", title="images/s"),
    Panel(column="data_wait_fraction", title="waiting for data", form="percent"),
    Panel(column="memory_bytes", title="memory at most (GB)", scale=1e-9),
)
COLUMNS = tuple(panel.column for panel in PANELS)
WORDS = {"number": "{:.4g}", "percent": "{:.1%}", "log": "{:.2g}"}
SEED_NOTE = (
    " Gray: github AsteroidHunter/replicatingAlexNet (the seed) on ILSVRC-2010, two GPUs; its validation, dashed, ran "
    "through the training transform, one random view an image."
)


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


def read_metrics(run: TrainedRun) -> Metrics:
    """What the run logged. Raises EvaluationError."""
    steps = run.state["dataset"]["samples"] // run.state["train_config"]["batch_size"]
    return load_metrics(run.path / "metrics.jsonl", max(steps, 1))


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
    if not len(x):
        return x, y
    runs = min(BINS, len(x))
    thin_x, thin_y = (np.array([run.mean() for run in np.array_split(values, runs)]) for values in (x, y))
    return thin_x, thin_y


def curves_section(runs: Sequence[TrainedRun]) -> Section:
    """Curves of one run, the published ones behind them on ImageNet; or of several over each other, a color each."""
    logged: list[tuple[TrainedRun, str, Metrics]] = []
    sentences: list[str] = []
    for run, color in zip(runs, COLORS):
        try:
            metrics = read_metrics(run)
        except EvaluationError as error:
            sentences.append(f"No curves: {error}")
            continue
        sentences += [f"{run.path}: {note}" for note in metrics.notes]
        logged.append((run, color, metrics))
    if not logged:
        return Section("curves", "Training curves", sentences)
    published = published_curve() if len(runs) == 1 and runs[0].challenge else {}
    last = max([*(metrics.epochs[-1] for _, _, metrics in logged), *published.get("epoch", [])])
    charts = []
    for panel in _shown_panels(logged, sentences):
        lines = _published_lines(panel, published)
        for _, color, metrics in logged:
            lines += _lines(panel, metrics, color, color if len(runs) > 1 else "orange")
        words = " ".join(_in_words(panel, metrics, run.path.name) for run, _, metrics in logged)
        drawing = svg(draw_lines(lines, panel.form, last))
        charts.append(Chart(name=panel.column, title=panel.title, svg=drawing, alternative=words))
    caption = "One point is the mean over a run of steps; validation is the center crop at the end of an epoch."
    if len(runs) > 1:
        legend = [(color, str(run.path)) for run, color, _ in logged]
        caption = f"Solid lines are training, dashed ones validation. {caption}"
    else:
        legend = [("blue", "training"), ("orange", "validation")] + ([("gray", "the seed")] if published else [])
    block = Charts(charts=charts, legend=legend, caption=caption + (SEED_NOTE if published else ""))
    return Section("curves", "Training curves", sentences, [block])


def _shown_panels(logged: list[tuple[TrainedRun, str, Metrics]], sentences: list[str]) -> list[Panel]:
    """The panels that have something to show; `sentences` gets one for those that do not."""
    columns = {column for _, _, metrics in logged for column in [*metrics.training, *metrics.validation]}
    if max(len(run.classes) for run, _, _ in logged) <= 5:
        columns.discard("top5_error")
        sentences.append("With five classes or fewer the top-5 error is always 0: it has no panel.")
    absent = [panel.title for panel in PANELS if panel.column not in columns]
    sentences += [f"Not shown: {', '.join(absent)}."] if absent else []
    return [panel for panel in PANELS if panel.column in columns]


def _lines(panel: Panel, metrics: Metrics, training: str, validation: str) -> list[Line]:
    lines = []
    if panel.column in metrics.training:
        x, y = thinned(metrics.epochs, panel.scale * metrics.training[panel.column])
        lines.append(Line(x=x, y=y, color=training, steps=panel.column == "rate"))
    if panel.column in metrics.validation:
        x, y = metrics.validation_epochs, panel.scale * metrics.validation[panel.column]
        lines.append(Line(x=x, y=y, color=validation, dashed=validation == training))
    return lines


def _published_lines(panel: Panel, published: Mapping[str, np.ndarray]) -> list[Line]:
    names = {f"training_{panel.column}": False, f"validation_{panel.column}": True, panel.column: False}
    return [
        Line(x=published["epoch"], y=published[name], color="gray", dashed=dashed, steps=name == "rate")
        for name, dashed in names.items()
        if name in published
    ]


def _in_words(panel: Panel, metrics: Metrics, name: str) -> str:
    """What the panel shows of a run, for those who cannot see it."""
    phrases = [f"{name}: {panel.title} over {metrics.epochs[-1]:.3g} epochs."]
    for what, columns in (("Training", metrics.training), ("Validation", metrics.validation)):
        if panel.column in columns:
            first, last = (WORDS[panel.form].format(panel.scale * columns[panel.column][place]) for place in (0, -1))
            phrases.append(f"{what} from {first} to {last}.")
    return " ".join(phrases)
