"""train.py's own trainer with a stopwatch around its batches, under torchrun: what `scaling` and `gpu_check` start.

Enters: options of train.py. Leaves: of an epoch, images, seconds, CPU-seconds and the waits for data.

    torchrun … -m benchmarks.timed_training FOLDER synthetic|loaded STEPS OPTIONS OF train.py    one rank
"""

import dataclasses
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.measure import Repeat, peak_bytes
from benchmarks.processes import WorkerError
from benchmarks.results import ROOT
from common.command_line import flag
from training import trainer
from training.config import parse_arguments
from training.mesh import close_mesh
from training.pairs import DeviceBatch, PairedLoader

Batches = Literal["synthetic", "loaded"]
SKIPPED = 2  # batches of an epoch, for what the loader had ready at its start
TIMEOUT_SECONDS = 300


def torchrun(processes: int, program: Sequence[str], seconds: float = TIMEOUT_SECONDS) -> None:
    """Run `program` (arguments of torchrun) on so many processes of this machine. Raises WorkerError."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    try:
        done = subprocess.run(
            [*command, *program], cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise WorkerError(f"{' '.join(program)}: not done after {seconds:.0f} seconds") from error
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "rror" in line]
        raise WorkerError(f"{' '.join(program)}: status {done.returncode}: {(errors or ['nothing was logged'])[0]}")


def command_line(options: dict[str, Any]) -> list[str]:
    """Options of train.py as its arguments; True is a flag, and what is None or False is left out."""
    given = {flag(name): value for name, value in options.items() if value not in (None, False)}
    return [name if value is True else f"{name}={value}" for name, value in given.items()]


def train_timed(processes: int, batches: Batches, steps: int, options: dict[str, Any]) -> Repeat:
    """The second of two epochs of `steps` steps on so many processes, with rank 0's waits for each batch."""
    with tempfile.TemporaryDirectory(prefix="timed-training-") as name:
        folder = Path(name)
        options = {"run_dir": folder / "run", "epochs": 2, "keep_every": 0, **options}
        torchrun(processes, ["-m", "benchmarks.timed_training", name, batches, str(steps), *command_line(options)])
        ranks = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(processes)]
    return Repeat(
        images=ranks[0]["images"],
        seconds=max(rank["seconds"] for rank in ranks),
        cpu_seconds=sum(rank["cpu_seconds"] for rank in ranks),
        peak_bytes=sum(rank["peak_bytes"] for rank in ranks),
        waits_seconds=tuple(ranks[0]["waits_seconds"]),
    )


class Stopwatch:
    """A rank's loader that notes what the steps of the last epoch took, and ends each after `steps` that count.

    synthetic: the first batch, again and again.
    """

    def __init__(self, loader: PairedLoader, steps: int, synthetic: bool, path: Path) -> None:
        self._loader, self._synthetic, self._path = loader, synthetic, path
        self.steps_per_epoch = min(steps + SKIPPED, loader.steps_per_epoch)
        self.damaged_images = 0

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[DeviceBatch]:
        """The epoch's batches. The clocks run from the first that is counted until the trainer has done them all."""
        images, clocks, waits = 0, (0.0, 0.0), []
        try:
            for number, batch in enumerate(self._batches()):
                if number == SKIPPED:
                    clocks = _clocks()
                if number >= SKIPPED:
                    images += batch.samples
                    waits.append(batch.wait_seconds if number > SKIPPED else 0.0)
                yield batch
        finally:  # the trainer asks for no batch after the last one: it closes this iterator
            seconds, cpu_seconds = (after - before for after, before in zip(_clocks(), clocks))
            peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak_bytes()
            figures = {"images": images, "seconds": seconds, "cpu_seconds": cpu_seconds, "peak_bytes": peak}
            self._path.write_text(json.dumps(figures | {"waits_seconds": waits}))

    def _batches(self) -> Iterator[DeviceBatch]:
        batches = self._loader.epoch(0)
        if self._synthetic:
            batches = itertools.repeat(dataclasses.replace(next(batches), wait_seconds=0.0))
        yield from itertools.islice(batches, self.steps_per_epoch)

    def close(self) -> None:
        """Close the loader."""
        self._loader.close()


def _clocks() -> tuple[float, float]:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


def main(folder: str, batches: Batches, steps: str, *arguments: str) -> int:
    """One rank: the trainer with these arguments, its loader in a `Stopwatch`."""
    make_loader, path = trainer.make_loader, Path(folder) / f"{os.environ['RANK']}.json"

    def timed_loader(*own: Any, **named: Any) -> Stopwatch:
        return Stopwatch(make_loader(*own, **named), int(steps), batches == "synthetic", path)

    trainer.make_loader = timed_loader  # type: ignore[assignment]
    trainer.train(parse_arguments(arguments, __doc__.splitlines()[0]))
    close_mesh()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))  # type: ignore[arg-type]
