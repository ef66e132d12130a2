"""The training step: what do the response norms and the loader cost? `python -m benchmarks step [--quick]`.

    norms      forward, backward and update with our response norms, with PyTorch's, with none; with
               the C library's handling of memory as it is, and with freed memory kept, as train.py has it
    together   the loader alone, the step alone on synthetic data, and the step on the loader's batches

Each case has its own process, so that peak memory is its own; the cases of a group take turns. The file's `ratios` hold
ours ÷ PyTorch's, ours ÷ none, and together ÷ the slower of loader and step, each from repeats made side by side: by
wall time (`images_per_second`) and by CPU time (`images_per_cpu_second`).
"""

import os
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from benchmarks import data
from benchmarks.measure import MINIMUM_REPEATS, Case, Clock, Row, Spread, interleave
from benchmarks.processes import Worker, WorkerError
from benchmarks.results import spread, write_tables
from benchmarks.stepping import Stepping, SteppingJob
from dali_pipelines.augmentation import RecipeName

SETTINGS = {False: (1.0, 128, 2, MINIMUM_REPEATS), True: (0.125, 16, 2, 1)}  # width, batch, batches together, repeats
CLOCKS: tuple[Clock, ...] = ("images_per_second", "images_per_cpu_second")
RECIPE: RecipeName = "paper"  # its norms are those that PyTorch has; a second recipe would double the time


def measure(cases: dict[str, SteppingJob], repeats: int) -> dict[str, Row]:
    """Rows, by name, of cases that take turns. Raises WorkerError where a process dies."""
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(name, Stepping, job)) for name, job in cases.items()]
        for worker in workers:
            if not worker.await_ready():
                raise WorkerError(worker.missing)
        turns = [Case(name=worker.name, repeat=partial(worker.call, "repeat")) for worker in workers]
        return {row.name: row for row in interleave(turns, repeats)}


def ratio(row: Row, *others: Row) -> dict[str, Spread]:
    """Of a row's rate to the lowest of the others', round by round, on both clocks."""
    return {clock: row.rate(clock).over(*(other.rate(clock) for other in others)) for clock in CLOCKS}


def run(quick: bool, out: Path) -> None:
    """Measure both groups and write `out`/step.{json,md,png}."""
    width, batch, batches, repeats = SETTINGS[quick]
    base = SteppingJob(recipe=RECIPE, width=width, batch=batch, threads=len(os.sched_getaffinity(0)))
    with data.shards(batch * batches) as shards:
        loading = replace(base, shards=shards.path)
        group = {"loader alone": replace(loading, network=False), "step alone": replace(base, steps=batches)}
        rows = measure(norm_cases(base), repeats)
        rows |= measure(group | {"loader and step together": loading}, repeats)
        ours, theirs, without, kept, *alone, together = rows.values()
        ratios = {
            "ours to PyTorch's": ratio(ours, theirs),
            "ours to none": ratio(ours, without),
            "memory kept to not": ratio(kept, ours),
            "together to the slower of the two": ratio(together, *alone),
        }
        slower = {"of the slower of the two alone": alone}
        write_tables(
            "step",
            list(rows.values()),
            headlines=[
                ours.headline("training steps", {"× the same with PyTorch's response norms": [theirs]}),
                together.headline("loader and training step together", slower, "images_per_second"),
            ],
            out=out,
            title=f"Training step, batch {batch}, width {width:g}",
            data_set=data.describe(shards),
            operations=f"train.py's forward, backward and update in float32 with dropout, recipe {RECIPE}, the "
            f"response norms as named; one synthetic batch of {batch}, or an epoch of {batches} batches decoded and "
            f"augmented; {base.threads} threads",
            quick=quick,
            remarks=[
                f"{name}: {spread(wall)} by wall time, {spread(cpu)} by CPU time"
                for name, (wall, cpu) in ((name, both.values()) for name, both in ratios.items())
            ],
            extra={"ratios": {name: {clock: asdict(both[clock]) for clock in both} for name, both in ratios.items()}},
        )


def norm_cases(job: SteppingJob) -> dict[str, SteppingJob]:
    """Our response norms, PyTorch's and none, with the C library's memory; and ours with freed memory kept."""
    norms = {"our norms": "ours", "PyTorch's norms": "pytorch", "no norms": "none"}
    cases = {name: replace(job, norm=norm, keep_memory=False) for name, norm in norms.items()}
    return cases | {"our norms, memory kept": job}
