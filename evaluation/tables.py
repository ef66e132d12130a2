"""The errors of an evaluation: beside the published ones, as text, by class as CSV, and as the difference of two.

Two networks that saw the same images are right or wrong together for most of them: the images on which they differ tell
more than two intervals beside each other.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from model.scores import CONFIDENCE_DEVIATE, Scores

METHODS = {
    "ten_patch": "ten patches, mean of softmax",
    "ten_patch_mean_logits": "ten patches, mean of logits",
    "center_crop": "center crop",
}
FIGURES = ("top1_error", "top5_error", "log_loss")
HEADER = ("errors in per cent, 95 % intervals", "top-1", "top-5", "log loss")
CLASS_COLUMNS = ("label", "wnid", "name", "images", "top1_errors", "top5_errors", "top1_error", "top5_error")


@dataclass(frozen=True)
class PairedDifference:
    """Error of the second network less that of the first, as a fraction; `low` and `high` bound it at 95 %.

    `only_first`, `only_second`: images that only this network has right. `p_value`: McNemar's exact test (1947), two
    sides: how often equally good networks would differ so much.
    """

    difference: float
    low: float
    high: float
    only_first: int
    only_second: int
    p_value: float

    def in_points(self) -> str:
        """`+1.20 [+0.80, +1.60]`, in percentage points."""
        return f"{100 * self.difference:+.2f} [{100 * self.low:+.2f}, {100 * self.high:+.2f}]"


def compare_answers(first: np.ndarray, second: np.ndarray) -> PairedDifference:
    """Compare whether each image is right, bool [n], n at least 1, for two networks.

    The interval is Agresti and Min's (2005) for matched pairs: half an image is added to each of the four counts, so
    that it is sound for few images too. Raises ValueError for different numbers of images, or none.
    """
    if first.shape != second.shape or not len(first):
        raise ValueError(f"expected the same images for both, at least one, got {first.shape} and {second.shape}")
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    lost, won, images = only_first + 0.5, only_second + 0.5, len(first) + 2
    middle = (lost - won) / images
    margin = CONFIDENCE_DEVIATE * (lost + won - (lost - won) ** 2 / images) ** 0.5 / images
    difference, discordant = (only_first - only_second) / len(first), only_first + only_second
    low, high = max(middle - margin, -1.0), min(middle + margin, 1.0)
    p_value = float(binomtest(only_first, discordant).pvalue) if discordant else 1.0
    return PairedDifference(difference, low, high, only_first, only_second, p_value)


def error_rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Rows (what, top-1, top-5, log loss) of a report.json: three methods, the references.

    Of several networks also each alone, and by how much its errors are above the mean's: in points, log loss in nats.
    """
    members = report.get("members", [])
    networks = f", {len(members)} networks" if members else ""
    rows = [error_row(title + networks, report[method]) for method, title in METHODS.items()]
    for member in members:
        top1, top5, loss = (member["gain"][name] for name in FIGURES)
        rows.append(error_row(f"{member['file']} alone", member["ten_patch"]))
        rows.append((f"{member['file']} less the mean", f"{100 * top1:+.2f}", f"{100 * top5:+.2f}", f"{loss:+.4f}"))
    return rows + [
        error_row(f"{item['run']}, {item['challenge']} {item['split']}", item) for item in report["references"]
    ]


def error_row(title: str, figures: Mapping[str, Any]) -> tuple[str, ...]:
    """`title` and the figures: ours with two digits (log loss: four) and their interval, published ones as they are."""
    cells = []
    for name in FIGURES:
        value, interval = figures[name], figures.get(name.replace("_error", "") + "_interval")
        scale, form = (1, ".4f") if name == "log_loss" else (100, ".2f" if interval else ".5g")
        ends = f" [{', '.join(f'{scale * end:{form}}' for end in interval)}]" if interval else ""
        cells.append("" if value is None else f"{scale * value:{form}}{ends}")
    return title, *cells


def error_table(report: Mapping[str, Any]) -> str:
    """What was evaluated, and the rows as aligned lines of text."""
    of, rows = report["checkpoint"], [HEADER, *error_rows(report)]
    name_width, *widths = (max(map(len, column)) for column in zip(*rows))
    lines = [
        f"{report['name'] or report['dataset']['shards']}: {report['images']} images, {Path(of['file']).name} (epoch "
        f"{of['epoch']}, step {of['step']}), {report['images_per_second']:.1f} images/s"
    ]
    for name, *cells in rows:
        aligned = [name.ljust(name_width), *(cell.rjust(width) for cell, width in zip(cells, widths))]
        lines.append("  ".join(aligned).rstrip())
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
