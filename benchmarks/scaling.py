"""How does training grow with the processes of this machine? `python -m benchmarks scaling [--quick]`.

train.py's own trainer under torchrun, 1, 2, 4, … processes (one a GPU; on the CPU they share its cores), each with the
same number of images a step: unsplit, and in pairs that share one network; on one synthetic batch again and again, and
on the loader's. The note has the images/s beside one process's, times the number (1 is perfect), and the share of time
that was spent waiting for data. Leaves `scaling.{json,md,png}`.
"""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from benchmarks import data
from benchmarks.measure import MINIMUM_REPEATS, Case, Repeat, Row, interleave
from benchmarks.results import write_tables
from benchmarks.timed_training import SKIPPED, Batches, train_timed

# images a step and process, width, steps of a repeat, repeats
SETTINGS = {False: (32, 0.5, 4, MINIMUM_REPEATS), True: (4, 0.0625, 2, 1)}
GPU_SETTINGS = (128, 1.0, 30, MINIMUM_REPEATS)
BATCHES: tuple[Batches, ...] = ("synthetic", "loaded")


def layouts(most: int) -> list[tuple[int, int]]:
    """(processes, processes that share a network): 1, 2, 4 … and `most` processes, unsplit, then in pairs."""
    counts = sorted({most, *(2**power for power in range(10) if 2**power < most)})
    return [(count, 1) for count in counts] + [(count, 2) for count in counts if count % 2 == 0]


def run(quick: bool, out: Path) -> None:
    """Measure, print and write `out`/scaling.{json,md,png}."""
    gpus, cores = torch.cuda.device_count(), len(os.sched_getaffinity(0))
    most = gpus or min(2, cores)
    batch, width, steps, repeats = GPU_SETTINGS if gpus and not quick else SETTINGS[quick]
    measured: dict[str, list[Repeat]] = {}
    with data.shards((steps + SKIPPED) * batch * most) as shards:

        def repeat(name: str, processes: int, pair: int, batches: Batches) -> Repeat:
            options = {
                "shards": shards.path.parent,
                "batch_size": batch * processes,
                "width": width,
                "model_parallel": pair,
                "threads": None if gpus else max(1, cores // processes),
            }
            measured.setdefault(name, []).append(train_timed(processes, batches, steps, options))
            return measured[name][-1]

        cases = {
            f"{processes} process{'es' * (processes > 1)}{' in pairs' * (pair == 2)}, {batches}": (
                processes,
                pair,
                batches,
            )
            for batches in BATCHES
            for processes, pair in layouts(most)
        }
        turns = [Case(name=name, repeat=partial(repeat, name, *case)) for name, case in cases.items()]
        rows = {row.name: row for row in interleave(turns, repeats, warm_ups=0)}
        for name, (processes, _, batches) in cases.items():
            rows[name] = beside_one(rows[name], processes, rows[f"1 process, {batches}"], measured[name])
        write_tables(
            "scaling",
            list(rows.values()),
            out=out,
            title=f"Training on 1 to {most} processes, {batch} images a step and process, width {width:g}",
            data_set=data.describe(shards),
            operations="train.py's trainer under torchrun: batch in, step, sums over all ranks, log; each repeat is a "
            f"start of its own, of which one epoch and {SKIPPED} steps of the next do not count, nor do checkpoints",
            quick=quick,
        )


def beside_one(row: Row, processes: int, one: Row, repeats: list[Repeat]) -> Row:
    """The row with its efficiency beside one process, and the share of time that rank 0 waited for data."""
    assert row.images_per_second is not None and one.images_per_second is not None
    efficiency = row.images_per_second.over(one.images_per_second).median / processes
    waited = sum(sum(repeat.waits_seconds) for repeat in repeats) / sum(repeat.seconds for repeat in repeats)
    note = f"efficiency {efficiency:.2f}; {waited:.0%} of the time waiting for data"
    return replace(row, note=note, details={"processes": processes, "efficiency": efficiency, "data_wait": waited})
