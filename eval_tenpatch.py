"""A run's checkpoint and a packed split in; ten-patch and center-crop errors out, on screen and in `RUN/report.json`.

    python eval_tenpatch.py --run-dir RUN [--checkpoint last|best|FILE] [--shards DIR] [--split val|test]
    torchrun --nproc-per-node N eval_tenpatch.py --run-dir RUN …      several GPUs or processes, the same figures
    python eval_tenpatch.py --run-dir RUN --predict IMAGE…            the five best classes of any picture

Beside report.json: `class_errors.csv` (a line for each class) and `predictions.npz` (a row for each image).
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from common.command_line import Parser
from common.errors import run_command
from evaluation.options import add_run_options, device_type, positive
from evaluation.prediction import predict
from evaluation.tables import error_table
from evaluation.ten_patch import describe, evaluate, gather, write_results
from evaluation.trained_run import TrainedRun
from training.collectives import noticing_lost_ranks
from training.mesh import close_mesh, make_mesh

BATCH_SIZE = {"cpu": 25, "cuda": 128}  # ten views each
RANK_TIMEOUT_SECONDS = 600.0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status: 0 done, 1 the work failed (2, a wrong command line, exits)."""
    parser = Parser(prog="eval_tenpatch.py", description="Ten-patch errors of a trained run.")
    add_run_options(parser)
    parser.add_argument("--split", choices=("val", "test"), default="val", help="which split (default: val)")
    parser.add_argument(
        "--batch-size", type=positive, metavar="N", help="images a step and process (default: 25, on a GPU 128)"
    )
    parser.add_argument("--predict", type=Path, nargs="+", metavar="IMAGE", help="name what these pictures show")
    options = parser.parse_args(arguments)
    return run_command(lambda: run(options))


def run(options: argparse.Namespace) -> int:
    """Predict or evaluate; on rank 0 the results are written and printed. Returns the exit status."""
    trained = TrainedRun.open(options.run_dir, options.checkpoint)
    device = device_type(options.device)
    if options.predict:
        return predict(trained, options.predict, torch.device(device), options.shards)
    with noticing_lost_ranks(), trained.open_split(options.split, options.shards) as shards:
        mesh = make_mesh(1, device, RANK_TIMEOUT_SECONDS)
        network, start = trained.network(mesh.device), time.perf_counter()
        part = evaluate(
            network,
            shards,
            trained.statistics,
            trained.recipe,
            batch_size=(options.batch_size or BATCH_SIZE[device]) * mesh.world,
            rank=mesh.rank,
            world=mesh.world,
            device=str(mesh.device),
        )
        evaluation = gather(part, len(shards), mesh.control_group)
        if evaluation is not None:
            report = describe(trained, shards, evaluation, mesh.describe(), time.perf_counter() - start)
            write_results(trained, evaluation, report)
            sys.stdout.write(
                f"{report['name'] or shards.path}: {report['images']} images, {trained.describe()}, "
                f"{report['images_per_second']:.1f} images/s\n{error_table(report)}"
                f"written: {trained.path / 'report.json'}, class_errors.csv, predictions.npz\n"
            )
    close_mesh()  # after an error it could wait for a process that has gone
    return 0


if __name__ == "__main__":
    sys.exit(main())
