"""The section on curves over epochs: one panel for each logged column, the published run behind it on ImageNet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from evaluation.references import published_curve
from evaluation.trained_run import EvaluationError, TrainedRun
from report.drawing import COLORS, Line, draw_lines, svg
from report.metrics import Metrics, corners, load_metrics, thinned
from report.page import Chart, Charts, Section


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A column of metrics.jsonl and how it is drawn: `form` of the axis, `scale` and `words` of its numbers."""

    column: str
    title: str
    form: Literal["number", "percent", "log"] = "number"
    scale: float = 1.0
    words: str = "{:.3f}"


PANELS = (
    Panel(column="loss", title="log loss (nats)"),
    Panel(column="top1_error", title="top-1 error", form="percent", words="{:.1%}"),
    Panel(column="top5_error", title="top-5 error", form="percent", words="{:.1%}"),
    Panel(column="rate", title="rate", form="log", words="{:.2g}"),
    Panel(column="images_per_second", title="images/s", words="{:,.0f}"),
    Panel(column="data_wait_fraction", title="waiting for data", form="percent", words="{:.1%}"),
    Panel(column="memory_bytes", title="memory at most (GB)", scale=1e-9, words="{:.2f}"),
)
SEED_NOTE = (
    " Gray: github AsteroidHunter/replicatingAlexNet (the seed) on ILSVRC-2010, two GPUs; its validation, dashed, ran "
    "through the training transform, one random view an image."
)


@dataclass(frozen=True, kw_only=True)
class LoggedRun:
    """A run's metrics and the colors of their lines; validation is dashed where both have one color."""

    run: TrainedRun
    metrics: Metrics
    training: str
    validation: str


def read_metrics(run: TrainedRun) -> Metrics:
    """What the run logged. Raises EvaluationError."""
    steps = run.state["dataset"]["samples"] // run.state["train_config"]["batch_size"]
    return load_metrics(run.path / "metrics.jsonl", max(steps, 1))


def curves_section(runs: Sequence[TrainedRun]) -> Section:
    """Curves of one run, the published ones behind them on ImageNet; or of several over each other, a color each."""
    logged, sentences = [], []
    for run, color in zip(runs, COLORS):
        try:
            metrics = read_metrics(run)
        except EvaluationError as error:
            sentences.append(f"No curves: {error}")
            continue
        sentences += [f"{run.path}: {note}" for note in metrics.notes]
        validation = color if len(runs) > 1 else "orange"
        logged.append(LoggedRun(run=run, metrics=metrics, training=color, validation=validation))
    if not logged:
        return Section(name="curves", title="Training curves", sentences=sentences)
    published = published_curve() if len(runs) == 1 and runs[0].challenge else {}
    last = max([*(one.metrics.epochs[-1] for one in logged), *published.get("epoch", [])])
    charts = []
    for panel in _shown_panels(logged, sentences):
        lines = [*_published_lines(panel, published), *(line for one in logged for line in _lines(panel, one))]
        words = " ".join(_in_words(panel, one) for one in logged)
        drawing = svg(draw_lines(lines, panel.form, last))
        charts.append(Chart(name=panel.column, title=panel.title, svg=drawing, alternative=words))
    caption = "One point is the mean over a run of steps; validation is the center crop at the end of an epoch."
    if len(runs) > 1:
        legend = [(one.training, str(one.run.path)) for one in logged]
        caption = f"Solid lines are training, dashed ones validation. {caption}"
    else:
        legend = [("blue", "training"), ("orange", "validation")] + ([("gray", "the seed")] if published else [])
    block = Charts(charts=charts, legend=legend, caption=caption + (SEED_NOTE if published else ""))
    return Section(name="curves", title="Training curves", sentences=sentences, blocks=[block])


def _shown_panels(logged: list[LoggedRun], sentences: list[str]) -> list[Panel]:
    """The panels that have something to show; `sentences` gets one for those that do not."""
    columns = {column for one in logged for column in [*one.metrics.training, *one.metrics.validation]}
    panels = list(PANELS)
    if max(len(one.run.classes) for one in logged) <= 5:
        panels = [panel for panel in PANELS if panel.column != "top5_error"]
        sentences.append("With five classes or fewer the top-5 error is always 0: it has no panel.")
    absent = [panel.title for panel in panels if panel.column not in columns]
    if absent:
        sentences.append(f"Not logged: {', '.join(absent)}.")
    return [panel for panel in panels if panel.column in columns]


def _lines(panel: Panel, one: LoggedRun) -> list[Line]:
    lines, metrics, steps = [], one.metrics, panel.column == "rate"
    if panel.column in metrics.training:
        x, y = (corners if steps else thinned)(metrics.epochs, panel.scale * metrics.training[panel.column])
        lines.append(Line(x=x, y=y, color=one.training, steps=steps))
    if panel.column in metrics.validation:
        x, y = metrics.validation_epochs, panel.scale * metrics.validation[panel.column]
        lines.append(Line(x=x, y=y, color=one.validation, marks=True, dashed=one.validation == one.training))
    return lines


def _published_lines(panel: Panel, published: Mapping[str, np.ndarray]) -> list[Line]:
    names = {f"training_{panel.column}": False, f"validation_{panel.column}": True, panel.column: False}
    return [
        Line(x=published["epoch"], y=published[name], color="gray", dashed=dashed, steps=name == "rate")
        for name, dashed in names.items()
        if name in published
    ]


def _in_words(panel: Panel, one: LoggedRun) -> str:
    """What the panel shows of a run, for those who cannot see it."""
    phrases = [f"{one.run.path.name}: {panel.title} over {one.metrics.epochs[-1]:.3g} epochs."]
    for name, columns in (("Training", one.metrics.training), ("Validation", one.metrics.validation)):
        if panel.column in columns:
            first, last = (panel.words.format(panel.scale * columns[panel.column][place]) for place in (0, -1))
            phrases.append(f"{name} from {first} to {last}.")
    return " ".join(phrases)
