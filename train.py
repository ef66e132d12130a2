"""Train AlexNet: a shard set in; checkpoints, metrics and TensorBoard events in the run's folder out.

    python train.py --shards DIR --run-dir DIR                                     one process: one GPU, or the CPU
    torchrun --standalone --nproc-per-node 4 train.py --shards DIR --run-dir DIR   four GPUs: two split networks

A run can be stopped at any step (SIGTERM, SIGUSR1, Ctrl-C: it saves first); the same command goes on as if it had never
stopped. Exit status: 0 done or stopped in order, 1 the work failed, 2 the command line is wrong.
"""

import logging
import os
import sys

from common.command_line import parse_config
from common.errors import run_command
from training.config import TrainConfig


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns the exit status; a wrong line exits with 2 before anything heavy is imported."""
    config = parse_config(TrainConfig, arguments, "train.py", __doc__.splitlines()[0])
    rank, world = os.environ.get("RANK", "0"), int(os.environ.get("WORLD_SIZE", "1"))
    level = logging.INFO if rank == "0" and not config.quiet else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr, force=True)
    status = run_command(lambda: run(config), who=f" on process {rank}" if world > 1 else "")
    if status and world > 1:  # at its exit Python would wait for kernels and threads that wait for a lost rank
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def run(config: TrainConfig) -> int:
    """One training; returns 0."""
    from tqdm.contrib.logging import logging_redirect_tqdm

    from training.mesh import close_mesh, noticing_lost_ranks
    from training.step import advising_on_memory
    from training.trainer import train

    with noticing_lost_ranks("; give the same command again to go on"), advising_on_memory(), logging_redirect_tqdm():
        train(config)
    close_mesh()
    return 0


if __name__ == "__main__":
    sys.exit(main())
