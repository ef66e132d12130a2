"""The head, the sections in their order, the configuration at the end → the page and its charts on the disk."""

import datetime
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from common.files import write_text
from evaluation.results import AVERAGE, NOT_EVALUATED, read_predictions, read_report
from evaluation.trained_run import EvaluationError, TrainedRun, choose_device, try_split
from model.checkpoint import versions
from report.classes import classes_section, confusions_section, mistakes_section, picture_source
from report.curves import COLUMNS, curves_section, read_metrics
from report.errors import average_section, baseline_section, compared_section, errors_section
from report.page import Charts, Section, Table, render
from report.pictures import augmented_section, filters_section, guesses_section, neighbors_section

if TYPE_CHECKING:
    from report.__main__ import ReportOptions

Evaluation = Mapping[str, Any] | None


def make_page(options: "ReportOptions") -> int:
    """Write the page, and its charts in a folder named after it; print its head, and return 0.

    Charts of an earlier page that this one does not have are removed. Raises EvaluationError and what opening a run
    raises.
    """
    paths = [options.run_dir] if options.run_dir else options.compare
    run, *others = runs = [TrainedRun.open(path, options.checkpoint) for path in paths]
    if others:
        title, facts, name = f"{len(runs)} runs", [("runs", ", ".join(map(str, paths)))], "compare.html"
        sections = [compared_section(runs), curves_section(runs), differences_section(runs)]
    else:
        evaluation, name = read_report(run.path), "report.html"
        title, facts = f"Run {run.path.resolve().name}", run_facts(run, evaluation)
        sections = run_sections(run, evaluation, options)
    page = options.out or run.path / name
    folder, blocks = page.with_suffix(""), [block for section in sections for block in section.blocks]
    charts = {chart.name: chart.svg for block in blocks if isinstance(block, Charts) for chart in block.charts}
    files = {folder / f"{name}.svg": content for name, content in charts.items()}
    for path, content in (files | {page: render(title, facts, sections)}).items():
        write_text(path, content)
    for column in set(COLUMNS) - set(charts):
        (folder / f"{column}.svg").unlink(missing_ok=True)
    if not options.quiet:
        sys.stdout.write("".join(f"{name}: {value}\n" for name, value in facts))
        sys.stdout.write(f"report: {page} ({page.stat().st_size / 1e6:.1f} MB), charts in {folder}\n")
    return 0


def run_sections(run: TrainedRun, evaluation: Evaluation, options: "ReportOptions") -> list[Section]:
    """All sections in the page's order; one that cannot be shown has the sentence that says why."""
    held_out, no_held_out = try_split(run, evaluation["split"] if evaluation else "val", options.shards)
    training, no_training = try_split(run, "train", options.shards)
    classifier, sections = run.classifier(choose_device(options.device)), [errors_section(run, evaluation)]
    predictions, average = read_predictions(run.path, len(run.classes)), read_report(run.path / AVERAGE)
    if options.baseline is not None:
        sections.append(baseline_section(run, TrainedRun.open(options.baseline)))
    if average is not None:
        sections.append(average_section(run, average))
    sections += [curves_section([run]), filters_section(run)]
    if held_out:
        sections.append(guesses_section(run, classifier, held_out))
    else:
        sections.append(Section("guesses", "Held-out images", [f"Not shown: {no_held_out}"]))
    if held_out and training:
        sections.append(neighbors_section(run, classifier, held_out, training, options.neighbors_among))
    if training:
        sections.append(augmented_section(run, training))
    else:
        sections.append(Section("augmented", "Training images", [f"Not shown: {no_training}"]))
    if evaluation and predictions:
        pictures = picture_source(held_out, evaluation["dataset"]["fingerprint"])
        sections.append(confusions_section(run, predictions, *pictures))
        sections += [mistakes_section(run, predictions, *pictures), classes_section(run, predictions)]
    else:
        reason = NOT_EVALUATED.format(run=run.path)
        sections.append(Section("classes", "Errors by class", [f"Not shown: {reason}"]))
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
            seconds = round(float(np.nansum(np.diff(metrics.training["step"], prepend=0) * batch_size / speeds)))
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


def configuration_section(run: TrainedRun, evaluation: Evaluation) -> Section:
    """Config, versions and checksums, a row each."""
    data = run.state["dataset"]
    rows = [
        *_option_rows(run),
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
    for when, packages in (("trained with", run.state["versions"]), ("this page made with", versions())):
        rows.append((when, ", ".join(f"{name} {version}" for name, version in sorted(packages.items()))))
    table = Table(header=("what", "value"), rows=rows)
    return Section("configuration", "Configuration, versions, checksums", blocks=[table])


def differences_section(runs: Sequence[TrainedRun]) -> Section:
    """The options in which the runs differ; `run_dir` is left out, since it always does."""
    tables = [
        dict(_option_rows(run)) | {"training data, checksum": run.state["dataset"]["fingerprint"]} for run in runs
    ]
    names = [name for name in dict.fromkeys(name for table in tables for name in table) if name != "train: run_dir"]
    rows = [(name, *(table.get(name, "–") for table in tables)) for name in names]
    different = [row for row in rows if len(set(row[1:])) > 1]
    if not different:
        return Section("options", "Options", ["All options are the same."])
    table = Table(header=("option", *(str(run.path) for run in runs)), rows=different)
    sentence = f"The other {len(rows) - len(different)} options are the same."
    return Section("options", "Options that differ", [sentence], [table])


def _option_rows(run: TrainedRun) -> list[tuple[str, str]]:
    """(option, value) of training and network, in order."""
    return [
        (f"{room}: {name}", str(value))
        for room in ("train", "model")
        for name, value in sorted(run.state[f"{room}_config"].items())
    ]
