"""A run's checkpoint and a packed split in; ten-patch and center-crop errors out, on screen and in `RUN/report.json`.

    python eval_tenpatch.py --run-dir RUN [--checkpoint last|best|FILE] [--shards DIR] [--split val|test]
    torchrun --nproc-per-node N eval_tenpatch.py --run-dir RUN …      several GPUs or processes, the same figures
    python eval_tenpatch.py --run-dir RUN --predict IMAGE…            the five best classes of any picture

Beside report.json: `class_errors.csv` (a line for each class) and `predictions.npz` (a row for each image).
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.command_line import Parser, add_options, option, parse_config
from common.errors import run_command
from evaluation import CheckpointOptions

RANK_TIMEOUT_SECONDS = 600.0


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(CheckpointOptions):
    """The command line. Raises ValueError, naming the option, for a value that cannot work."""

    run_dir: Path = option("the run's folder", metavar="DIR")
    split: Literal["val", "test"] = option("which split", "val")
    batch_size: int | None = option("images a step and process; none: 25, on a GPU what fits, at most 128", None)
    predict: tuple[Path, ...] = option("name what these pictures show, in place of evaluating", (), metavar="IMAGE")

    def __post_init__(self) -> None:
        self.check_from_one("batch_size")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status: 0 done, 1 the work failed (2, a wrong command line, exits)."""
    parser = Parser(prog="eval_tenpatch.py", description="Ten-patch errors of a trained run.")
    add_options(parser, EvaluationOptions)
    options = parse_config(parser, EvaluationOptions, arguments)
    return run_command(lambda: run(options))


def run(options: EvaluationOptions) -> int:
    """Predict or evaluate; on rank 0 the results are written and printed. Returns the exit status."""
    # torch and DALI take seconds to import: --help and a wrong option do not wait for them
    from evaluation.prediction import predict
    from evaluation.results import describe, write_results
    from evaluation.tables import error_table
    from evaluation.ten_patch import default_batch_size, evaluate, gather
    from evaluation.trained_run import TrainedRun, choose_device
    from training.collectives import noticing_lost_ranks
    from training.mesh import close_mesh, make_mesh

    trained, device = TrainedRun.open(options.run_dir, options.checkpoint), choose_device(options.device)
    if options.predict:
        return predict(trained, options.predict, device, options.shards)
    with noticing_lost_ranks(), trained.open_split(options.split, options.shards) as shards:
        mesh = make_mesh(1, device.type, RANK_TIMEOUT_SECONDS)
        network, start = trained.network(mesh.device), time.perf_counter()
        part = evaluate(
            network,
            shards,
            trained.statistics,
            trained.recipe,
            batch_size=(options.batch_size or default_batch_size(mesh.device)) * mesh.world,
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
