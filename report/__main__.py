"""`python -m report --run-dir DIR`: writes DIR/report.html, which opens from disk, and its pictures DIR/report/*.png"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from common.command_line import Parser
from common.errors import run_command
from common.files import write_atomically
from evaluation.options import add_run_options, device_type, positive
from evaluation.trained_run import TrainedRun, try_split
from evaluation.views import Classifier
from report.logged import (
    classes_section,
    configuration_section,
    curves_section,
    errors_section,
    filters_section,
    in_brief,
    read_evaluation,
)
from report.page import Section, render
from report.shown import augmented_section, guesses_section, neighbors_section


def build(run: TrainedRun, shards: Path | None, among: int, device: torch.device) -> list[Section]:
    """All sections in the page's order; one that cannot be shown has the sentence that says why.

    `shards`: where the packed splits are, if not where the run was trained from; `among`: how many training images
    neighbors are searched among.
    """
    evaluation = read_evaluation(run)
    held_out, no_held_out = try_split(run, evaluation["split"] if evaluation else "val", shards)
    training, no_training = try_split(run, "train", shards)
    classifier = Classifier(run.network(device), run.statistics, run.recipe, device)
    sections = [errors_section(run, evaluation), curves_section(run), filters_section(run)]
    if held_out:
        sections.append(guesses_section(run, classifier, held_out))
        if training:
            sections.append(neighbors_section(run, classifier, held_out, training, among))
    else:
        sections.append(Section(name="guesses", title="Held-out images", sentences=[f"Not shown: {no_held_out}"]))
    if training:
        sections.append(augmented_section(run, training))
    else:
        sections.append(Section(name="training", title="Training images", sentences=[f"Not shown: {no_training}"]))
    return [*sections, classes_section(run, evaluation), configuration_section(run, evaluation)]


def write_report(run: TrainedRun, sections: list[Section]) -> Path:
    """Write the pictures and the page, and remove pictures of an earlier report. Returns the page's path."""
    folder, page = run.path / "report", run.path / "report.html"
    pictures = {f"{picture.name}.png": picture.png for section in sections for picture in section.pictures}
    for name, content in pictures.items():
        _write(folder / name, content)
    for old in folder.glob("*.png"):
        if old.name not in pictures:
            old.unlink()
    data, model = run.state["dataset"], run.state["model_config"]
    summary = (
        f"AlexNet, recipe {model['recipe']}, width {model['width']:g}, {model['classes']} classes; trained on "
        f"{data['samples']} images; {run.describe()}."
    )
    _write(page, render(f"Run {run.path.resolve().name}", [summary], sections).encode())
    return page


def _write(path: Path, content: bytes) -> None:
    with write_atomically(path) as file:
        file.write(content)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status: 0 done, 1 the work failed (2, a wrong command line, exits)."""
    parser = Parser(prog="python -m report", description="report.html of a trained run.")
    add_run_options(parser)
    parser.add_argument(
        "--neighbors-among",
        type=positive,
        default=5000,
        metavar="N",
        help="training images to search for neighbors, from the first (packing shuffled them; default: 5000)",
    )
    options = parser.parse_args(arguments)
    return run_command(lambda: make_report(options))


def make_report(options: argparse.Namespace) -> int:
    """Write the page and its pictures, and print them in brief; returns 0."""
    device = torch.device(device_type(options.device))
    run = TrainedRun.open(options.run_dir, options.checkpoint)
    page = write_report(run, build(run, options.shards, options.neighbors_among, device))
    written = f"report: {page} ({page.stat().st_size / 1e6:.1f} MB) and {run.path / 'report'}/*.png"
    sys.stdout.write("\n".join([*in_brief(run, read_evaluation(run)), written]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
