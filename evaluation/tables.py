"""The errors of an evaluation, as rows beside the published ones, as text, and by class as CSV."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.references import Reference
from model.scores import Figures, Scores

METHODS = {
    "ten_patch": "ten patches, mean of softmax",
    "ten_patch_mean_logits": "ten patches, mean of logits",
    "center_crop": "center crop",
}
HEADER = ("errors in per cent, 95 % intervals", "top-1", "top-5", "log loss")
CLASS_COLUMNS = ("label", "wnid", "name", "images", "top1_errors", "top5_errors", "top1_error", "top5_error")

Row = tuple[str, str, str, str]


def error_rows(report: Mapping[str, Any]) -> list[Row]:
    """Rows (what, top-1, top-5, log loss) of a report.json: three methods, each of several networks, the references."""
    members = report.get("members", [])
    count = f", {len(members)} networks" if members else ""
    rows = [_own_row(title + count, report[method]) for method, title in METHODS.items()]
    rows += [_own_row(f"{member['file']} alone", member["ten_patch"]) for member in members]
    for content in report["references"]:
        rows += _reference_rows(Reference(**content))
    return rows


def _own_row(title: str, figures: Figures) -> Row:
    top1, top5 = (
        _with_interval(100 * error, [100 * end for end in interval], 2)
        for error, interval in (
            (figures["top1_error"], figures["top1_interval"]),
            (figures["top5_error"], figures["top5_interval"]),
        )
    )
    return title, top1, top5, _with_interval(figures["log_loss"], figures["log_loss_interval"], 4)


def _with_interval(value: float, interval: Sequence[float], digits: int) -> str:
    return f"{value:.{digits}f} [{', '.join(f'{end:.{digits}f}' for end in interval)}]"


def _reference_rows(reference: Reference) -> list[Row]:
    title = f"{reference.run}, {reference.challenge} {reference.split}"
    rows: list[tuple[str, float | None, float | None, float | None]] = [
        (title, reference.top1_error, reference.top5_error, reference.log_loss)
    ]
    if reference.center_top1_error is not None:
        center = reference.center_top1_error, reference.center_top5_error, reference.center_log_loss
        rows.append((f"{title}, center crop", *center))
    return [
        (what, _per_cent(top1), _per_cent(top5), "" if loss is None else f"{loss:.4f}")
        for what, top1, top5, loss in rows
    ]


def _per_cent(fraction: float | None) -> str:
    return "" if fraction is None else f"{100 * fraction:.5g}"


def error_table(report: Mapping[str, Any]) -> str:
    """The rows as aligned lines of text."""
    rows = [HEADER, *error_rows(report)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]).rstrip()
        for row in rows
    ]
    if report["reference_note"]:
        lines.append(report["reference_note"])
    return "\n".join(lines) + "\n"


def class_errors_csv(classes: Sequence[Sequence[Any]], scores: Scores) -> str:
    """A line for each class of the table [[label, wnid, name], …]: images, wrong ones (ties make fractions), errors."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(CLASS_COLUMNS)
    images, top1, top5 = scores.errors_by_class()
    for (label, wnid, name), count, one, five in zip(classes, images.tolist(), top1.tolist(), top5.tolist()):
        rates = [f"{errors / count:.6f}" if count else "" for errors in (one, five)]
        writer.writerow([label, wnid or "", name or "", count, f"{one:.6g}", f"{five:.6g}", *rates])
    return lines.getvalue()
