"""Runs that leave out one part each → one table: what each part is worth here, beside what the sources say.

Enters: RUNS/whole and RUNS/<part> (scripts/ablations.slurm makes them), evaluated on one split. Leaves, in RUNS,
ablations.json, ablations.md and ablations.png. A run that is not there yet has its row, and the reason.

    python scripts/ablations.py RUNS [--note TEXT]
"""

import argparse
import json
import sys
import textwrap
from dataclasses import fields
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from common.command_line import Parser, flag
from common.errors import run_command
from evaluation.references import worth_of
from evaluation.results import read_predictions, read_report
from evaluation.tables import compare_answers
from evaluation.trained_run import EvaluationError
from training.config import ABLATIONS, TrainConfig

IDENTITY = [item.name for item in fields(TrainConfig) if item.metadata.get("identity")]


def read_run(folder: Path) -> dict[str, Any]:
    """A run's options, figures and answers. Raises EvaluationError if it is not evaluated."""
    report, config = read_report(folder), folder / "config.json"
    predictions = read_predictions(folder, report["classes"]) if report else None
    if report is None or predictions is None or not config.is_file():
        raise EvaluationError(f"{folder} is not trained and evaluated yet")
    options = json.loads(config.read_text())["train_config"]
    return {"options": {name: options[name] for name in IDENTITY}, "report": report, "answers": predictions}


def compare(part: str, folder: Path, whole: dict[str, Any]) -> dict[str, Any]:
    """What the table says of one part. Raises EvaluationError if its run differs from `whole` in more than the part."""
    run = read_run(folder)
    expected = whole["options"] | {"ablate": [part]}
    wrong = [f"{flag(name)} is {run['options'][name]}, expected {expected[name]}" for name in IDENTITY
             if run["options"][name] != expected[name]]  # fmt: skip
    if run["report"]["dataset"] != whole["report"]["dataset"]:
        wrong.append("it was evaluated on another split")
    if wrong:
        raise EvaluationError(f"{folder} is no ablation of {part}: {'; '.join(wrong)}")
    result: dict[str, Any] = {"part": part}
    for name, guesses in (("top1", 1), ("top5", 5)):
        paired = compare_answers(whole["answers"].correct(guesses), run["answers"].correct(guesses))
        error = run["report"]["ten_patch"][f"{name}_error"]
        result[name] = {"error": error, "more": paired.difference, "low": paired.low, "high": paired.high}
    result["sources"] = [{"source": item.source, "top1": item.top1, "top5": item.top5} for item in worth_of(part)]
    return result


def markdown(table: dict[str, Any]) -> str:
    """The table for people: errors in per cent, differences in points."""

    def points(share: float | None) -> str:
        return "–" if share is None else f"{100 * share:+.2f}"

    lines = [f"# What each part is worth: {table['images']:,} images of {table['split']}, ten patches", ""]
    lines += [table["note"], ""] if table["note"] else []
    lines += [
        "Errors in per cent; by how many points more without a part, with a 95 % interval for matched pairs; what the",
        "sources say.",
        "",
        "| without | top-1 | more | top-5 | more | sources: top-1, top-5 |",
        "|---|---|---|---|---|---|",
    ]
    whole = table["whole"]
    lines.append(f"| nothing | {100 * whole['top1_error']:.2f} | | {100 * whole['top5_error']:.2f} | | |")
    for row in table["parts"]:
        if "missing" in row:
            lines.append(f"| {row['part']} | {row['missing']} | | | | |")
            continue
        cells = [cell for name in ("top1", "top5") for cell in (
            f"{100 * row[name]['error']:.2f}",
            f"{points(row[name]['more'])} [{points(row[name]['low'])}, {points(row[name]['high'])}]",
        )]  # fmt: skip
        said = "; ".join(
            f"{points(item['top1'])}, {points(item['top5'])} ({item['source']})" for item in row["sources"]
        )
        lines.append(f"| {row['part']} | {' | '.join(cells)} | {said} |")
    return "\n".join(lines) + "\n"


def draw(table: dict[str, Any], path: Path) -> None:
    """Top-1 differences with their intervals, and the sources' figures as crosses."""
    rows = [row for row in table["parts"] if "top1" in row][::-1]
    figure = Figure(figsize=(7, 1.2 + 0.35 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for height, row in enumerate(rows):
        more, low, high = (100 * row["top1"][name] for name in ("more", "low", "high"))
        axes.plot([low, high], [height, height], color="#0072b2")
        axes.plot(more, height, "o", color="#0072b2", label="" if height else "here, 95 % interval")
        said = [100 * item["top1"] for item in row["sources"] if item["top1"] is not None]
        axes.plot(said, [height] * len(said), "x", color="#d55e00", label="" if height else "sources")
    axes.axvline(0, color="#8a8a8a", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [f"without {row['part']}" for row in rows])
    axes.set_xlabel("points of top-1 error more than the whole network\n" + textwrap.fill(table["note"], 80))
    axes.legend()
    figure.savefig(path, dpi=120)


def write_table(options: argparse.Namespace) -> int:
    """Write the three files; returns 0."""
    runs, parts = options.runs, []
    whole = read_run(runs / "whole")
    for part in ABLATIONS:
        try:
            parts.append(compare(part, runs / part, whole))
        except EvaluationError as error:
            parts.append({"part": part, "missing": str(error)})
    report = whole["report"]
    table = {name: report[name] for name in ("split", "images", "classes", "machine", "versions")}
    table |= {"note": options.note, "options": whole["options"], "whole": report["ten_patch"], "parts": parts}
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
