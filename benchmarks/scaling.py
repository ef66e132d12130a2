"""How does training grow with the processes of this machine? `python -m benchmarks scaling [--quick]`.

train.py's own trainer under torchrun, 1, 2, 4, … processes (one a GPU; on the CPU they share its cores), each with the
same number of images a step: unsplit, and in pairs that share one network; on one synthetic batch again and again, and
on the loader's. The note has the images/s beside one process's, times the number (1 is perfect), and the share of time
that was spent waiting for data. Leaves `scaling.{json,md,png}`.
"""

import contextlib
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from benchmarks import data
from benchmarks.measure import MINIMUM_REPEATS, Repeat, Row, cores, doubling, interleave, peak_bytes
from benchmarks.processes import FIRST_STEP, fork_server
from benchmarks.results import Table
from common.errors import UserError
from dali_pipelines import Batch
from training.config import TrainConfig
from training.mesh import close_mesh
from training.pairs import PairedLoader
from training.trainer import Trainer

Batches = Literal["synthetic", "loaded"]
BATCHES: tuple[Batches, ...] = ("synthetic", "loaded")
WARM_UP = 4  # steps that do not count: compilers and allocators settle, and what the loader had ready is used up
# images a step and process, width, steps of a repeat, repeats
SETTINGS = {False: (32, 0.5, 4, MINIMUM_REPEATS), True: (4, 0.0625, 2, 1)}
GPU_SETTINGS = (128, 1.0, 30, MINIMUM_REPEATS)


def layouts(most: int) -> list[tuple[int, int]]:
    """(processes, processes that share a network): 1, 2, 4 … and `most` processes, unsplit, then in pairs."""
    return [(n, 1) for n in doubling(most)] + [(n, 2) for n in doubling(most) if n % 2 == 0]


def layout_name(processes: int, pair: int) -> str:
    """`2 processes in pairs`."""
    return f"{processes} process{'es' * (processes > 1)}{' in pairs' * (pair == 2)}"


def run(quick: bool) -> Table:
    """Measure all layouts on both kinds of batches."""
    gpus = torch.cuda.device_count()
    most = gpus or min(2, cores())
    batch, width, steps, repeats = GPU_SETTINGS if gpus and not quick else SETTINGS[quick]
    measured: dict[str, list[Repeat]] = {}
    with data.shards((steps + WARM_UP) * batch * most) as shards:

        def repeat(name: str, processes: int, pair: int, batches: Batches) -> Repeat:
            sizes = {"batch_size": batch * processes, "width": width, "threads": max(1, cores() // processes)}
            options = {"shards": shards.path.parent, "model_parallel": str(pair), **sizes}
            measured.setdefault(name, []).append(train_timed(processes, batches, steps, options))
            return measured[name][-1]

        cases = {
            f"{layout_name(*layout)}, {batches}": (*layout, batches) for batches in BATCHES for layout in layouts(most)
        }
        rows = interleave({name: partial(repeat, name, *case) for name, case in cases.items()}, repeats, warm_ups=0)
        for name, (processes, _, batches) in cases.items():
            rows[name] = beside_one(rows[name], processes, rows[f"1 process, {batches}"], measured[name])
        return Table(
            title=f"Training on 1 to {most} processes, {batch} images a step and process, width {width:g}",
            rows=list(rows.values()),
            data_set=data.describe(shards),
            operations="train.py's trainer under torchrun's agent: batch in, step, sums over all ranks, log; each "
            f"repeat is a start of its own, of which the first {WARM_UP} steps do not count, nor does the checkpoint",
        )


def beside_one(row: Row, processes: int, one: Row, repeats: list[Repeat]) -> Row:
    """The row with its efficiency beside one process, and the share of time that rank 0 waited for data."""
    efficiency = row.rate("images_per_second").over(one.rate("images_per_second")).median / processes
    waited = sum(sum(repeat.waits_seconds) for repeat in repeats) / sum(repeat.seconds for repeat in repeats)
    note = f"efficiency {efficiency:.2f}; {waited:.0%} of the time waiting for data"
    return replace(row, note=note, details={"processes": processes, "efficiency": efficiency, "data_wait": waited})


def launch(processes: int, rank: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `rank(*arguments)` returns on each of so many ranks of this machine, which torchrun's agent starts.

    They are forked from multiprocessing's fork server. Raises UserError with the first rank's error.
    """
    fork_server(__name__, FIRST_STEP)
    sizes = {"min_nodes": 1, "max_nodes": 1, "nproc_per_node": processes, "max_restarts": 0, "monitor_interval": 0.1}
    where = {"run_id": str(time.time_ns()), "rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0"}
    config = LaunchConfig(start_method="forkserver", **sizes, **where)  # type: ignore[arg-type]
    try:
        by_rank = elastic_launch(config, rank)(*arguments)
    except ChildFailedError as error:
        number, failure = error.get_first_failure()
        raise UserError(f"rank {number} of {processes}: {failure.message}") from error
    return [by_rank[number] for number in range(processes)]


def train_timed(processes: int, batches: Batches, steps: int, options: dict[str, Any]) -> Repeat:
    """So many steps of training with `options` of train.py on so many processes, with rank 0's waits for each batch."""
    with tempfile.TemporaryDirectory(prefix="timed-training-") as name:
        config = TrainConfig(run_dir=Path(name) / "run", epochs=1, keep_every=0, quiet=True, **options)
        ranks = launch(processes, time_rank, config, steps, batches == "synthetic")
    return Repeat(
        images=ranks[0].images,
        seconds=max(rank.seconds for rank in ranks),
        cpu_seconds=sum(rank.cpu_seconds for rank in ranks),
        peak_bytes=sum(rank.peak_bytes for rank in ranks),
        waits_seconds=ranks[0].waits_seconds,
    )


class RecordedLoader:
    """A rank's loader in one endless epoch, of which `steps` are asked for; it keeps sizes and waits of the batches.

    synthetic: the first batch, again and again.
    """

    def __init__(self, loader: PairedLoader, steps: int, synthetic: bool) -> None:
        self._loader, self._synthetic, self.steps_per_epoch, self.damaged_images = loader, synthetic, steps, 0
        self.images, self.waits_seconds = list[int](), list[float]()

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches."""
        batches = itertools.chain.from_iterable(map(self._loader.epoch, itertools.count()))
        first = [replace(next(batches), wait_seconds=0.0)] if self._synthetic else []
        for batch in itertools.cycle(first) if first else batches:
            self.images.append(batch.samples)
            self.waits_seconds.append(batch.wait_seconds)
            yield batch


def time_rank(config: TrainConfig, steps: int, synthetic: bool) -> Repeat:
    """A rank's part: trains by `config` for `steps` steps after those that warm up, with the clocks of this process."""
    clocks: list[tuple[float, float]] = []
    with contextlib.ExitStack() as stack:
        trainer = Trainer(config, stack)
        loader = RecordedLoader(trainer.loader, WARM_UP + steps, synthetic)

        def look_at_clocks() -> None:
            if len(loader.images) in (WARM_UP, WARM_UP + steps):
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                clocks.append((time.perf_counter(), time.process_time()))

        trainer.loader, trainer.last_step = loader, WARM_UP + steps  # type: ignore[assignment]
        trainer.step_done = look_at_clocks
        trainer.run()
    close_mesh()
    (start, cpu_start), (end, cpu_end) = clocks
    return Repeat(
        images=sum(loader.images[WARM_UP:]),
        seconds=end - start,
        cpu_seconds=cpu_end - cpu_start,
        peak_bytes=torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak_bytes(),
        waits_seconds=tuple(loader.waits_seconds[WARM_UP:]),
    )
