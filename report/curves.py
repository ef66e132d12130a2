"""The section on curves: metrics.jsonl in, a panel for each logged column out, the published run behind on ImageNet."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, NamedTuple

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


class Metrics(NamedTuple):
    """Training and validation as float64 [lines] by column: `step`, `epoch` and those of `COLUMNS` that a line has.

    `epoch` counts epochs done (the end of the first is 1.0); what a line lacks is NaN. `notes`: what is odd, in words.
    """

    training: Mapping[str, np.ndarray]
    validation: Mapping[str, np.ndarray]
    notes: Sequence[str] = ()


def read_metrics(run: TrainedRun) -> Metrics:
    """What a run logged in its `metrics.jsonl`.

    A torn last line (the run is going on, or was killed) is left out with a note. Raises EvaluationError when the file
    is absent, has no training line, or has another kind of line elsewhere.
    """
    path = run.path / "metrics.jsonl"
    steps_per_epoch = max(run.state["dataset"]["samples"] // run.state["train_config"]["batch_size"], 1)
    if not path.is_file():
        raise EvaluationError(f"{path}: no such file; has train.py run in this folder?")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    trained: list[dict[str, Any]] = []
    validated: list[dict[str, Any]] = []
    notes = []
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
        (validated if "validation" in record else trained).append(figures | {"step": record["step"]})
    if not trained:
        raise EvaluationError(f"{path}: no training step is logged there yet")
    training = _columns(trained, steps_per_epoch)
    if (np.diff(training["step"]) <= 0).any():
        notes.append("Steps do not always rise in metrics.jsonl: more than one training may have written there.")
    return Metrics(training, _columns(validated, steps_per_epoch), notes)


def _columns(records: list[dict[str, Any]], steps_per_epoch: int) -> dict[str, np.ndarray]:
    names = ("step", *COLUMNS)
    columns = {name: np.array([record.get(name) for record in records], np.float64) for name in names}  # None is NaN
    columns["epoch"] = columns["step"] / steps_per_epoch
    return {name: column for name, column in columns.items() if not np.isnan(column).all()}


def published_metrics() -> Metrics:
    """The seed's training, as `read_metrics` would give it."""
    curve = published_curve()
    training = {name.removeprefix("training_"): column for name, column in curve.items()}
    validated = {name: column for name, column in curve.items() if name.startswith(("epoch", "validation_"))}
    return Metrics(training, {name.removeprefix("validation_"): column for name, column in validated.items()})


def thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most `BINS` points: the means of x and of y over equal runs of consecutive points; where y is NaN left out."""
    finite = np.isfinite(y)
    x, y = x[finite], y[finite]
    runs = min(BINS, len(x))
    thin_x, thin_y = (np.array([run.mean() for run in np.array_split(values, runs)]) for values in (x, y))
    return thin_x, thin_y


def curves_section(runs: Sequence[TrainedRun]) -> Section:
    """Curves of one run, the published ones behind them on ImageNet; or of several over each other, a color each."""
    drawn: list[tuple[str, Metrics, str, str]] = []  # name, what it logged, colors of training and validation
    legend, sentences = [], []
    for run, color in zip(runs, COLORS):
        try:
            metrics = read_metrics(run)
        except EvaluationError as error:
            sentences.append(f"No curves: {error}")
            continue
        sentences += [f"{run.path}: {note}" for note in metrics.notes]
        drawn.append((run.path.name, metrics, color, color if len(runs) > 1 else "orange"))
        legend.append((color, str(run.path)))
    if not drawn:
        return Section("curves", "Training curves", sentences)
    classes = max(len(run.classes) for run in runs)
    panels = _shown_panels([metrics for _, metrics, *_ in drawn], classes, sentences)
    caption = "One point is the mean over a run of steps; validation is the center crop at the end of an epoch."
    if len(runs) > 1:
        caption = f"Solid lines are training, dashed ones validation. {caption}"
    else:
        legend = [("blue", "training"), ("orange", "validation")]
        if runs[0].challenge:
            drawn.insert(0, ("the seed", published_metrics(), "gray", "gray"))
            legend.append(("gray", "the seed"))
            caption += SEED_NOTE
    last = max(metrics.training["epoch"][-1] for _, metrics, *_ in drawn)
    charts = []
    for panel in panels:
        lines, words = zip(*(_drawn(panel, *run) for run in drawn))
        drawing = svg(draw_lines([*chain(*lines)], panel.form, last))
        charts.append(Chart(name=panel.column, title=panel.title, svg=drawing, alternative=" ".join(words)))
    return Section("curves", "Training curves", sentences, [Charts(charts=charts, legend=legend, caption=caption)])


def _shown_panels(logged: list[Metrics], classes: int, sentences: list[str]) -> list[Panel]:
    """The panels that have something to show; `sentences` gets one for those that do not."""
    columns = {column for metrics in logged for column in [*metrics.training, *metrics.validation]}
    if classes <= 5:
        columns.discard("top5_error")
        sentences.append("With five classes or fewer the top-5 error is always 0: it has no panel.")
    absent = [panel.title for panel in PANELS if panel.column not in columns]
    sentences += [f"Not shown: {', '.join(absent)}."] if absent else []
    return [panel for panel in PANELS if panel.column in columns]


def _drawn(panel: Panel, name: str, metrics: Metrics, *colors: str) -> tuple[list[Line], str]:
    """The lines of a run in a panel, training's and validation's in `colors`; and in words, for those who see none."""
    lines, words = [], f"{name}: {panel.title} over {metrics.training['epoch'][-1]:.3g} epochs."
    for what, columns, color in zip(("Training", "Validation"), metrics[:2], colors):
        if panel.column in columns:
            x, y = thinned(columns["epoch"], panel.scale * columns[panel.column])
            dashed = what == "Validation" and color == colors[0]
            lines.append(Line(x=x, y=y, color=color, dashed=dashed, steps=panel.column == "rate"))
            first, last = (WORDS[panel.form].format(y[place]) for place in (0, -1))
            words += f" {what} from {first} to {last}."
    return lines, words
