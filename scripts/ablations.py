"""Runs that leave out one part each → one table: what each part is worth here, beside what the sources say.

Enters: RUNS/whole and RUNS/<part> (scripts/ablations.slurm makes them), evaluated on one split. Leaves, in RUNS,
ablations.json, ablations.md and ablations.png. A run that is not there yet has its row, and the reason.

    python scripts/ablations.py RUNS [--note TEXT]
"""

import argparse
import json
import sys
import textwrap
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from common.command_line import Parser, flag
from common.errors import run_command
from evaluation.references import worth_of
from evaluation.results import compare_runs, read_predictions, read_report
from evaluation.trained_run import EvaluationError
from training.config import ABLATIONS, TrainConfig

IDENTITY = [item.name for item in fields(TrainConfig) if item.metadata.get("identity")]
ERRORS = ("top1", "top5")


def read_run(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A run's options and figures. Raises EvaluationError if it is not evaluated."""
    report, config = read_report(folder), folder / "config.json"
    if report is None or not config.is_file() or read_predictions(folder, report["classes"]) is None:
        raise EvaluationError(f"{folder} is not trained and evaluated yet")
    options = json.loads(config.read_text())["train_config"]
    return {name: options[name] for name in IDENTITY}, report


def compare(part: str, folder: Path, whole: Path, expected: dict[str, Any]) -> dict[str, Any]:
    """What the table says of one part. Raises EvaluationError for other options than `expected`, or other images."""
    options, report = read_run(folder)
    pairs = [(flag(name), value, expected[name]) for name, value in options.items()]
    wrong = [f"{name} is {value}, expected {other}" for name, value, other in pairs if value != other]
    if wrong:
        raise EvaluationError(f"{folder} is no ablation of {part}: {'; '.join(wrong)}")
    row: dict[str, Any] = {"part": part, "sources": [asdict(worth) for worth in worth_of(part)]}
    for name, paired in zip(ERRORS, compare_runs(folder, whole)):
        interval = {"low": paired.low, "high": paired.high, "in_points": paired.in_points()}
        row[name] = {"error": report["ten_patch"][f"{name}_error"], "more": paired.difference, **interval}
    return row


def markdown(table: dict[str, Any]) -> str:
    """The table for people: errors in per cent, differences in points."""
    top1, top5 = (f"{100 * table['whole'][f'{name}_error']:.2f}" for name in ERRORS)
    rows = [("without", "top-1", "more", "top-5", "more", "sources: top-1, top-5"), ("---",) * 6]
    rows.append(("nothing", top1, "", top5, "", ""))
    for row in table["parts"]:
        if "missing" in row:
            rows.append((row["part"], row["missing"], "", "", "", ""))
            continue
        errors = (text for name in ERRORS for text in (f"{100 * row[name]['error']:.2f}", row[name]["in_points"]))
        said = ((", ".join(filter(None, worth.in_points())), worth.source) for worth in worth_of(row["part"]))
        rows.append((row["part"], *errors, "; ".join(f"{points} ({source})".strip() for points, source in said)))
    head = [f"# What each part is worth: {table['images']:,} images of {table['split']}, ten patches", table["note"]]
    head.append("Errors in per cent; by how many points more without a part, with a 95 % interval for matched pairs.")
    lines = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    return "\n\n".join([*filter(None, head), lines])


def draw(table: dict[str, Any], path: Path) -> None:
    """Top-1 differences with their intervals, and the sources' figures as crosses."""
    rows = [row for row in table["parts"] if "top1" in row][::-1]
    figure = Figure(figsize=(7, 1.2 + 0.35 * len(rows)), layout="constrained")
    axes = figure.subplots()
    more, low, high = (np.array([100 * row["top1"][name] for row in rows]) for name in ("more", "low", "high"))
    axes.errorbar(more, range(len(rows)), xerr=(more - low, high - more), fmt="o", label="here, 95 % interval")
    said = [(item["top1"], height) for height, row in enumerate(rows) for item in row["sources"] if item["top1"]]
    axes.plot([100 * top1 for top1, _ in said], [height for _, height in said], "x", label="sources")
    axes.axvline(0, color="#8a8a8a", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [f"without {row['part']}" for row in rows])
    axes.set_xlabel("points of top-1 error more than the whole network\n" + textwrap.fill(table["note"], 80))
    axes.legend()
    figure.savefig(path, dpi=120)


def write_table(options: argparse.Namespace) -> int:
    """Write the three files; returns 0."""
    runs, parts = options.runs, []
    options_of_whole, report = read_run(runs / "whole")
    for part in ABLATIONS:
        try:
            parts.append(compare(part, runs / part, runs / "whole", options_of_whole | {"ablate": [part]}))
        except EvaluationError as error:
            parts.append({"part": part, "missing": str(error)})
    table = {name: report[name] for name in ("split", "images", "classes", "machine", "versions")}
    table |= {"note": options.note, "options": options_of_whole, "whole": report["ten_patch"], "parts": parts}
    (runs / "ablations.json").write_text(json.dumps(table, indent=1) + "\n")
    (runs / "ablations.md").write_text(markdown(table))
    draw(table, runs / "ablations.png")
    sys.stdout.write(markdown(table))
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    parser = Parser(prog="ablations.py", description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, metavar="RUNS", help="folder of the runs whole, norms, overlap, …")
    parser.add_argument("--note", default="", metavar="TEXT", help="a sentence to put above the table")
    return run_command(lambda: write_table(parser.parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main())
