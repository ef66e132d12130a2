"""The section on errors: this run's beside the published ones, and what it differs by from a baseline."""

from collections.abc import Mapping
from typing import Any

from evaluation.paired import PairedDifference, compare_answers
from evaluation.references import worth_of
from evaluation.results import Predictions, read_predictions, read_report
from evaluation.tables import HEADER, error_rows
from evaluation.trained_run import EvaluationError, TrainedRun
from report.page import Section, Table

NOT_EVALUATED = "Not evaluated yet: python eval_tenpatch.py --run-dir {run}"


def errors_section(run: TrainedRun, evaluation: Mapping[str, Any] | None) -> Section:
    """The errors beside the published ones."""
    title = "Errors beside the references"
    if evaluation is None:
        return Section(name="errors", title=title, sentences=[NOT_EVALUATED.format(run=run.path)])
    sentences = [
        f"{evaluation['images']:,} images of split {evaluation['split']}, {evaluation['classes']:,} classes, evaluated "
        f"{evaluation['date']} at {evaluation['images_per_second']:.1f} images/s ({evaluation['machine']})."
    ]
    if evaluation["reference_note"]:
        note = evaluation["reference_note"]
        sentences.append(f"{note[0].upper()}{note[1:]}.")
    evaluated = evaluation["checkpoint"]
    if evaluated["step"] != run.state["step"]:
        sentences.append(
            f"These errors are those of step {evaluated['step']}; everything else on this page is of step "
            f"{run.state['step']}. Evaluate again: python eval_tenpatch.py --run-dir {run.path}"
        )
    table = Table(header=HEADER, rows=[tuple(row) for row in error_rows(evaluation)])
    return Section(name="errors", title=title, sentences=sentences, blocks=[table])


def paired_row(run: TrainedRun, baseline: TrainedRun) -> tuple[str, ...]:
    """A row of `paired_table`: how the errors of `run` differ from those of `baseline` on the same images.

    Raises EvaluationError if one is not evaluated, or they were evaluated on other images.
    """
    (ours, split), (theirs, other) = _evaluated_answers(run), _evaluated_answers(baseline)
    if split["fingerprint"] != other["fingerprint"] or len(ours.labels) != len(theirs.labels):
        raise EvaluationError(
            f"{run.path} was evaluated on {split['shards']} ({len(ours.labels):,} images), {baseline.path} on "
            f"{other['shards']} ({len(theirs.labels):,} images): evaluate both on the same split to compare them"
        )
    top1, top5 = (compare_answers(theirs.correct(guesses), ours.correct(guesses)) for guesses in (1, 5))
    return (
        f"{run.path} less {baseline.path}",
        *(text for paired in (top1, top5) for text in (in_points(paired), f"{paired.p_value:.2g}")),
        f"{top1.only_second:,} / {top1.only_first:,}",
    )


def _evaluated_answers(run: TrainedRun) -> tuple[Predictions, dict[str, Any]]:
    """A run's predictions and the split that they are for. Raises EvaluationError if it has not been evaluated."""
    evaluation, predictions = read_report(run.path), read_predictions(run.path, len(run.classes))
    if evaluation is None or predictions is None:
        raise EvaluationError(NOT_EVALUATED.format(run=run.path))
    return predictions, evaluation["dataset"]


def paired_table(rows: list[tuple[str, ...]]) -> Table:
    """Differences between runs, a row each."""
    caption = (
        "Differences between the answers for the same images, in points, with 95 % intervals for matched pairs "
        "(Agresti and Min 2005). p: McNemar's exact test"
    )
    caption += ", not corrected for the number of comparisons." if len(rows) > 1 else "."
    return Table(header=("runs", "top-1", "p", "top-5", "p", "right in one / other only"), rows=rows, caption=caption)


def in_points(difference: PairedDifference) -> str:
    """`+1.20 [+0.80, +1.60]`, in percentage points."""
    middle, low, high = (100 * value for value in (difference.difference, difference.low, difference.high))
    return f"{middle:+.2f} [{low:+.2f}, {high:+.2f}]"


def baseline_section(run: TrainedRun, baseline: TrainedRun) -> Section:
    """How the errors differ from those of the run that parts were taken away from, beside what the sources say."""
    rows = [paired_row(run, baseline)]
    before = baseline.state["train_config"].get("ablate", ())
    for part in run.state["train_config"].get("ablate", ()):
        for worth in worth_of(part) if part not in before else ():
            about = "about " if worth.approximate else ""
            points = ("" if share is None else f"{about}{100 * share:+.2f}" for share in (worth.top1, worth.top5))
            rows.append((f"without {part}: {worth.source}", *(text for value in points for text in (value, "")), ""))
    return Section(name="baseline", title="Difference to the baseline", blocks=[paired_table(rows)])
