"""The sections in the page's order → the page and its charts on the disk, and a few lines for the screen."""

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from common.files import write_atomically
from evaluation.results import read_predictions, read_report
from evaluation.trained_run import EvaluationError, TrainedRun, choose_device, try_split
from evaluation.views import Classifier
from report.augmented import augmented_section
from report.classes import classes_section
from report.compare import compare_sections
from report.configuration import configuration_section
from report.confusions import confusions_section, mistakes_section, picture_source
from report.curves import PANELS, curves_section, read_metrics
from report.errors import NOT_EVALUATED, baseline_section, errors_section
from report.filters import filters_section
from report.guesses import guesses_section
from report.neighbors import neighbors_section
from report.page import Charts, Section, render

if TYPE_CHECKING:
    from report.__main__ import ReportOptions

Evaluation = Mapping[str, Any] | None


def report_run(options: "ReportOptions") -> list[str]:
    """Write the page on one run; returns lines for the screen. Raises EvaluationError and what opening a run raises."""
    assert options.run_dir is not None
    run = TrainedRun.open(options.run_dir, options.checkpoint)
    evaluation, device = read_report(run.path), choose_device(options.device)
    sections = run_sections(run, evaluation, options, device)
    if options.baseline is not None:
        sections.insert(1, baseline_section(run, TrainedRun.open(options.baseline)))
    facts = run_facts(run, evaluation)
    page = options.out or run.path / "report.html"
    write_page(page, f"Run {run.path.resolve().name}", facts, sections)
    return [*(f"{name}: {value}" for name, value in facts), written(page)]


def compare_runs(options: "ReportOptions") -> list[str]:
    """Write the page on several runs; returns lines for the screen. Raises as `report_run`."""
    runs = [TrainedRun.open(path, options.checkpoint) for path in options.compare]
    page = options.out or runs[0].path / "compare.html"
    write_page(page, f"{len(runs)} runs", [("runs", ", ".join(str(run.path) for run in runs))], compare_sections(runs))
    return [written(page)]


def written(page: Path) -> str:
    """The line on the screen that says where the page is."""
    return f"report: {page} ({page.stat().st_size / 1e6:.1f} MB), charts in {page.with_suffix('')}"


def run_sections(
    run: TrainedRun, evaluation: Evaluation, options: "ReportOptions", device: torch.device
) -> list[Section]:
    """All sections in the page's order; one that cannot be shown has the sentence that says why."""
    held_out, no_held_out = try_split(run, evaluation["split"] if evaluation else "val", options.shards)
    training, no_training = try_split(run, "train", options.shards)
    classifier = Classifier(run.network(device), run.statistics, run.recipe, device)
    sections = [errors_section(run, evaluation), curves_section([run]), filters_section(run)]
    if held_out:
        sections.append(guesses_section(run, classifier, held_out))
        if training:
            sections.append(neighbors_section(run, classifier, held_out, training, options.neighbors_among))
    else:
        sections.append(Section(name="guesses", title="Held-out images", sentences=[f"Not shown: {no_held_out}"]))
    if training:
        sections.append(augmented_section(run, training))
    else:
        sections.append(Section(name="augmented", title="Training images", sentences=[f"Not shown: {no_training}"]))
    predictions = read_predictions(run.path, len(run.classes))
    if evaluation is None or predictions is None:
        sentence = NOT_EVALUATED.format(run=run.path)
        sections.append(Section(name="classes", title="Errors by class", sentences=[sentence]))
    else:
        pictures = picture_source(held_out, evaluation["dataset"]["fingerprint"])
        sections += [
            confusions_section(run, predictions, *pictures),
            mistakes_section(run, predictions, *pictures),
            classes_section(run, predictions),
        ]
    return [*sections, configuration_section(run, evaluation)]


def run_facts(run: TrainedRun, evaluation: Evaluation) -> list[tuple[str, str]]:
    """(name, value) of what a reader wants first."""
    data, model, batch_size = run.state["dataset"], run.state["model_config"], run.state["train_config"]["batch_size"]
    errors = NOT_EVALUATED.format(run=run.path)
    if evaluation is not None:
        errors = " and ".join(f"{100 * evaluation['ten_patch'][f'top{n}_error']:.2f} %" for n in (1, 5))
    speed, time = "not logged for all steps", "unknown"
    try:
        metrics = read_metrics(run)
        speeds = metrics.training.get("images_per_second", np.zeros(1))
        if np.nanmin(speeds) > 0:
            speed = f"{np.nanmedian(speeds):,.0f} images/s"
            seconds = round(float(np.nansum(np.diff(metrics.steps, prepend=0) * batch_size / speeds)))
            time = str(datetime.timedelta(seconds=seconds))
    except EvaluationError as error:
        speed = f"unknown: {error}"
    return [
        ("network", f"AlexNet, recipe {model['recipe']}, width {model['width']:g}"),
        ("parameters", f"{sum(weights.numel() for weights in run.state['model'].values()):,}"),
        ("classes", f"{model['classes']:,}"),
        ("training images", f"{data['samples']:,}"),
        ("checkpoint", f"{run.checkpoint.name}: {run.state['epoch']:,} epochs, {run.state['step']:,} steps"),
        ("top-1 and top-5 error, ten patches", errors),
        ("median throughput", speed),
        ("training time, steps alone", time),
    ]


def write_page(page: Path, title: str, facts: list[tuple[str, str]], sections: list[Section]) -> None:
    """Write the charts, in a folder named after the page, then the page; remove charts of an earlier one."""
    folder = page.with_suffix("")
    blocks = (block for section in sections for block in section.blocks)
    charts = {f"{chart.name}.svg": chart.svg for block in blocks if isinstance(block, Charts) for chart in block.charts}
    for path, content in [
        *((folder / name, content) for name, content in charts.items()),
        (page, render(title, facts, sections)),
    ]:
        with write_atomically(path) as file:
            file.write(content.encode())
    for panel in PANELS:
        if f"{panel.column}.svg" not in charts:
            (folder / f"{panel.column}.svg").unlink(missing_ok=True)
