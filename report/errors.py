"""The sections on errors: beside the published ones, of several networks' mean, and the difference to other runs."""

from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.references import worth_of
from evaluation.results import NOT_EVALUATED, compare_runs, read_report
from evaluation.tables import HEADER, error_rows
from evaluation.trained_run import EvaluationError, TrainedRun
from report.page import Section, Table


def errors_section(run: TrainedRun, evaluation: Mapping[str, Any] | None) -> Section:
    """The errors beside the published ones."""
    title = "Errors beside the references"
    if evaluation is None:
        return Section("errors", title, [NOT_EVALUATED.format(run=run.path)])
    sentences, evaluated = _circumstances(evaluation), evaluation["checkpoint"]
    if evaluated["step"] != run.state["step"]:
        sentences.append(
            f"These errors are those of step {evaluated['step']}; everything else on this page is of step "
            f"{run.state['step']}. Evaluate again: python eval_tenpatch.py --run-dir {run.path}"
        )
    return Section("errors", title, sentences, [Table(header=HEADER, rows=error_rows(evaluation))])


def average_section(run: TrainedRun, average: Mapping[str, Any]) -> Section:
    """Several networks' mean, each of them, and the gain: by how much the mean's error is below each one's."""
    sentences = _circumstances(average)
    if run.checksum() not in [member["sha256"] for member in average.get("members", [])]:
        again = f"Average again: python eval_tenpatch.py --run-dir {run.path} B…"
        sentences.append(f"None of these networks is that of {run.checkpoint}, which this page is on. {again}")
    table = Table(header=HEADER, rows=error_rows(average))
    return Section("average", "The mean of several networks", sentences, [table])


def _circumstances(evaluation: Mapping[str, Any]) -> list[str]:
    """Sentences on what was evaluated, when, where, and on how far the references apply."""
    note = evaluation["reference_note"]
    return [
        f"{evaluation['images']:,} images of split {evaluation['split']}, {evaluation['classes']:,} classes, evaluated "
        f"{evaluation['date']} at {evaluation['images_per_second']:.1f} images/s ({evaluation['machine']}).",
        *([f"{note[0].upper()}{note[1:]}."] if note else []),
    ]


def paired_row(run: TrainedRun, baseline: TrainedRun) -> tuple[str, ...]:
    """A row of `paired_table`: what `compare_runs` finds, or raises."""
    top1, top5 = compare_runs(run.path, baseline.path)
    return (
        f"{run.path} less {baseline.path}",
        *(text for paired in (top1, top5) for text in (paired.in_points(), f"{paired.p_value:.2g}")),
        f"{top1.only_second:,} / {top1.only_first:,}",
    )


def paired_table(rows: list[tuple[str, ...]]) -> Table:
    """Differences between runs, a row each."""
    note = ", not corrected for the number of comparisons" if len(rows) > 1 else ""
    caption = (
        "Differences between the answers for the same images, in points, with 95 % intervals for matched pairs "
        f"(Agresti and Min 2005). p: McNemar's exact test{note}."
    )
    return Table(header=("runs", "top-1", "p", "top-5", "p", "right in one / other only"), rows=rows, caption=caption)


def baseline_section(run: TrainedRun, baseline: TrainedRun) -> Section:
    """How the errors differ from those of the run that parts were taken away from, beside what the sources say."""
    rows = [paired_row(run, baseline)]
    before = baseline.state["train_config"].get("ablate", ())
    for part in run.state["train_config"].get("ablate", ()):
        for worth in worth_of(part) if part not in before else ():
            top1, top5 = worth.in_points()
            rows.append((f"without {part}: {worth.source}", top1, "", top5, "", ""))
    return Section("baseline", "Difference to the baseline", blocks=[paired_table(rows)])


def compared_section(runs: Sequence[TrainedRun]) -> Section:
    """Ten-patch errors side by side; the difference of each to the first, where both saw the same images."""
    rows, paired, sentences = [], [], []
    for run in runs:
        evaluation = read_report(run.path)
        if evaluation is None:
            sentences.append(NOT_EVALUATED.format(run=run.path))
            continue
        images = f"{evaluation['images']:,} of {evaluation['dataset']['shards']}"
        rows.append((str(run.path), images, *error_rows(evaluation)[0][1:]))
    for run in runs[1:]:
        try:
            paired.append(paired_row(run, runs[0]))
        except EvaluationError as error:
            sentences.append(f"Not compared: {error}")
    blocks = [Table(header=("run", "images", *HEADER[1:]), rows=rows, caption=HEADER[0])] if rows else []
    blocks += [paired_table(paired)] if paired else []
    return Section("errors", "Errors, ten patches", sentences, blocks)
