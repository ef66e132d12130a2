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
from typing import Any

import numpy as np
import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from benchmarks import data
from benchmarks.measure import MINIMUM_REPEATS, Repeat, Row, doubling, interleave, peak_bytes, waits
from benchmarks.processes import FIRST_STEP, fork_server
from benchmarks.results import Table
from common.errors import UserError
from dali_pipelines import Batch
from sharding.options import CORES
from training.config import TrainConfig
from training.mesh import close_mesh
from training.trainer import Trainer

BATCHES = ("synthetic", "loaded")
WARM_UP = 4  # steps that do not count: compilers and allocators settle, and what the loader had ready is used up
SPARE = WARM_UP + 4  # steps of an epoch beyond those that count: at the end the loader still reads ahead
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
    most = gpus or min(2, CORES)
    batch, width, steps, repeats = GPU_SETTINGS if gpus and not quick else SETTINGS[quick]
    with data.shards((steps + SPARE) * batch * most) as shards:

        def repeat(processes: int, pair: int, batches: str) -> Repeat:
            sizes: Any = {"batch_size": batch * processes, "width": width, "threads": max(1, CORES // processes)}
            sizes["model_parallel"] = str(pair)
            config = TrainConfig(shards=shards.path.parent, run_dir=Path(), **sizes)
            return train_timed(processes, steps, config, batches == "synthetic")

        cases = {f"{layout_name(*layout)}, {kind}": (*layout, kind) for kind in BATCHES for layout in layouts(most)}
        rows = interleave({name: partial(repeat, *case) for name, case in cases.items()}, repeats, warm_ups=0)
        return Table(
            title=f"Training on 1 to {most} processes, {batch} images a step and process, width {width:g}",
            rows=[
                beside_one(rows[name], processes, rows[f"1 process, {batches}"])
                for name, (processes, _, batches) in cases.items()
            ],
            data_set=data.describe(shards),
            operations="train.py's trainer under torchrun's agent: batch in, step, sums over all ranks, log; each "
            f"repeat is a start of its own, of which the first {WARM_UP} steps do not count, nor does the checkpoint",
        )


def beside_one(row: Row, processes: int, one: Row) -> Row:
    """The row with its efficiency beside one process, and the share of time that rank 0 waited for data."""
    efficiency = np.median(row.over(one, clock="seconds")) / processes
    waited = np.median([repeat.waited_seconds / repeat.seconds for repeat in row.repeats])
    return replace(row, note=f"efficiency {efficiency:.2f}; {waited:.0%} of the time waiting for data")


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


def train_timed(processes: int, steps: int, config: TrainConfig, synthetic: bool = False) -> Repeat:
    """So many steps of training by `config` on so many processes, with rank 0's waits for each batch."""
    with tempfile.TemporaryDirectory(prefix="timed-training-") as name:
        config = replace(
            config, run_dir=Path(name) / "run", epochs=1, max_steps=WARM_UP + steps, keep_every=0, quiet=True
        )
        ranks = launch(processes, time_rank, config, steps, synthetic)
    return replace(
        ranks[0],
        seconds=max(rank.seconds for rank in ranks),
        cpu_seconds=sum(rank.cpu_seconds for rank in ranks),
        peak_bytes=sum(rank.peak_bytes for rank in ranks),
    )


def time_rank(config: TrainConfig, steps: int, synthetic: bool) -> Repeat:
    """A rank's part: trains by `config`, with the clocks of this process for `steps` steps after those that warm up.

    synthetic: the loader's first batch, again and again.
    """
    clocks: list[tuple[float, float]] = []
    waits_seconds: list[float] = []
    with contextlib.ExitStack() as stack:
        trainer = Trainer(config, stack)
        loaded = trainer.loader.epoch

        def recorded(epoch: int, start_step: int = 0) -> Iterator[Batch]:
            batches = loaded(epoch, start_step)
            for batch in itertools.repeat(replace(next(batches), wait_seconds=0.0)) if synthetic else batches:
                waits_seconds.append(batch.wait_seconds)
                yield batch

        def look_at_clocks() -> None:
            if trainer.state.step in (WARM_UP, WARM_UP + steps):
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                clocks.append((time.perf_counter(), time.process_time()))

        trainer.loader.epoch = recorded  # type: ignore[method-assign]
        trainer.step_done = look_at_clocks
        trainer.run()
    close_mesh()
    (start, cpu_start), (end, cpu_end) = clocks
    return Repeat(
        images=steps * config.batch_size,
        seconds=end - start,
        cpu_seconds=cpu_end - cpu_start,
        peak_bytes=torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak_bytes(),
        **waits(waits_seconds[WARM_UP:]),
    )
