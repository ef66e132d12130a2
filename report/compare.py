"""The page on several runs: errors side by side with a paired test, curves over each other, options that differ."""

from collections.abc import Sequence

from evaluation.results import read_report
from evaluation.tables import HEADER, error_rows
from evaluation.trained_run import EvaluationError, TrainedRun
from report.configuration import option_rows
from report.curves import curves_section
from report.errors import NOT_EVALUATED, paired_row, paired_table
from report.page import Section, Table


def compare_sections(runs: Sequence[TrainedRun]) -> list[Section]:
    """The page's sections; the first run is the one that the others are compared with."""
    return [errors_section(runs), curves_section(runs), options_section(runs)]


def errors_section(runs: Sequence[TrainedRun]) -> Section:
    """Ten-patch errors side by side; the difference of each to the first, where both saw the same images."""
    rows, sentences = [], []
    for run in runs:
        evaluation = read_report(run.path)
        if evaluation is None:
            sentences.append(NOT_EVALUATED.format(run=run.path))
            continue
        images = f"{evaluation['images']:,} of {evaluation['dataset']['shards']}"
        rows.append((str(run.path), images, *error_rows(evaluation)[0][1:]))
    paired = []
    for run in runs[1:]:
        try:
            paired.append(paired_row(run, runs[0]))
        except EvaluationError as error:
            sentences.append(f"Not compared: {error}")
    blocks = [Table(header=("run", "images", *HEADER[1:]), rows=rows, caption=HEADER[0])] if rows else []
    blocks += [paired_table(paired)] if paired else []
    return Section(name="errors", title="Errors, ten patches", sentences=sentences, blocks=blocks)


def options_section(runs: Sequence[TrainedRun]) -> Section:
    """The options in which the runs differ; `run_dir` is left out, since it always does."""
    tables = [dict(option_rows(run)) | {"training data, checksum": run.state["dataset"]["fingerprint"]} for run in runs]
    names = [name for name in dict.fromkeys(name for table in tables for name in table) if name != "train: run_dir"]
    rows = [(name, *(table.get(name, "–") for table in tables)) for name in names]
    different = [row for row in rows if len(set(row[1:])) > 1]
    if not different:
        return Section(name="options", title="Options", sentences=["All options are the same."])
    sentence = f"The other {len(rows) - len(different)} options are the same."
    table = Table(header=("option", *(str(run.path) for run in runs)), rows=different)
    return Section(name="options", title="Options that differ", sentences=[sentence], blocks=[table])
