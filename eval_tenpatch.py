"""A run's checkpoint and a packed split in; ten-patch and center-crop errors out, on screen and in `RUN/report.json`.

    python eval_tenpatch.py --run-dir RUN [--checkpoint last|best|FILE] [--shards DIR] [--split val|test]
    torchrun --nproc-per-node N eval_tenpatch.py --run-dir RUN …      several GPUs or processes, the same figures
    python eval_tenpatch.py --run-dir RUN RUN…                        the mean of several networks' probabilities
    python eval_tenpatch.py --run-dir RUN --predict IMAGE…            the five best classes of any picture

Beside report.json: `class_errors.csv` (a line for each class) and `predictions.npz` (a row for each image). Those of
several networks' mean are written into `average/` in the first one's folder.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.command_line import check_options, option, parse_config
from common.errors import run_command
from evaluation import CheckpointOptions

RANK_TIMEOUT_SECONDS = 600.0


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(CheckpointOptions):
    """The command line. Raises ValueError, naming the option, for a value that cannot work."""

    run_dir: tuple[Path, ...] = option("the run's folder; several: their networks are averaged", metavar="DIR")
    split: Literal["val", "test"] = option("which split", "val")
    batch_size: int | None = option("images a step and process; none: 25, on a GPU what fits (≤ 128)", None, least=1)
    decode: Literal["gpu", "cpu"] = option("what decodes JPEG for a GPU; cpu: its cores, uint8 crops travel", "gpu")
    quiet: bool = option("no progress bar", False)
    predict: tuple[Path, ...] = option("name what these pictures show, in place of evaluating", (), metavar="IMAGE")

    def __post_init__(self) -> None:
        check_options(self)
        if len(self.run_dir) > 1 and (self.predict or self.checkpoint not in ("last", "best")):
            raise ValueError("--predict and --checkpoint FILE take one --run-dir, got several")
        if len(set(self.run_dir)) < len(self.run_dir):
            raise ValueError("--run-dir names a folder twice")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status: 0 done, 1 the work failed (2, a wrong command line, exits)."""
    options = parse_config(EvaluationOptions, arguments, "eval_tenpatch.py", "Ten-patch errors of a trained run.")
    return run_command(lambda: run(options))


def run(options: EvaluationOptions) -> int:
    """Predict or evaluate; on rank 0 the results are written and printed. Returns the exit status."""
    # torch and DALI take seconds to import: --help and a wrong option do not wait for them
    from evaluation.results import AVERAGE, describe, write_results
    from evaluation.tables import error_table
    from evaluation.ten_patch import default_batch_size, evaluate, gather, predict
    from evaluation.trained_run import TrainedRun, choose_device, open_common_split
    from training.mesh import close_mesh, make_mesh, noticing_lost_ranks

    runs = [TrainedRun.open(path, options.checkpoint) for path in options.run_dir]
    device, folder = choose_device(options.device), runs[0].path / AVERAGE if len(runs) > 1 else runs[0].path
    if options.predict:
        return predict(runs[0], options.predict, device, options.shards)
    with noticing_lost_ranks(), open_common_split(runs, options.split, options.shards) as shards:
        mesh, start = make_mesh(1, device.type, RANK_TIMEOUT_SECONDS), time.perf_counter()
        members = [run.classifier(mesh.device) for run in runs]
        batch_size = (options.batch_size or default_batch_size(mesh.device)) * mesh.world
        part = evaluate(members, shards, batch_size, mesh.rank, mesh.world, options.decode, options.quiet)
        evaluation = gather(part, len(shards), mesh.control_group)
        if mesh.is_main:
            report = describe(runs, shards, evaluation, mesh.describe(), time.perf_counter() - start)
            write_results(folder, runs[0], evaluation, report)
            files = f"{folder / 'report.json'}, class_errors.csv, predictions.npz"
            sys.stdout.write(f"{error_table(report)}written: {files}\n")
    close_mesh()  # after an error it could wait for a process that has gone
    return 0


if __name__ == "__main__":
    sys.exit(main())
