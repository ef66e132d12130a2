"""The training step: what do the response norms, the split and the loader cost? `python -m benchmarks step [--quick]`.

    norms      forward, backward and update with our response norms, with PyTorch's, with none; with
               the C library's handling of memory as it is, and with freed memory kept, as train.py has it
    split      the same network, one tower in each of two processes
    together   the loader alone, the step alone on synthetic data, and the step on the loader's batches

Each case has its own process, so that peak memory is its own; the cases of a group take turns. The file's `ratios` hold
ours ÷ PyTorch's, ours ÷ none, split ÷ unsplit, and together ÷ the slower of loader and step, each from repeats made
side by side: by wall time (`seconds`) and by CPU time (`cpu_seconds`).
"""

import dataclasses
import multiprocessing
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from benchmarks import data
from benchmarks.measure import MINIMUM_REPEATS, Case, Repeat, Row, Spread, interleave
from benchmarks.results import spread, write_tables
from benchmarks.step_worker import Job, serve
from dali_pipelines.augmentation import RecipeName

WAIT_SECONDS = 300  # for a process to get ready, and for one repeat
SETTINGS = {False: (1.0, 128, 2, MINIMUM_REPEATS), True: (0.125, 16, 2, 1)}  # width, batch, batches together, repeats
RECIPE: RecipeName = "paper"  # its norms are those that PyTorch has; a second recipe would double the time


class Workers:
    """The processes of one case: one, or two for a split network."""

    def __init__(self, name: str, jobs: Sequence[Job]) -> None:
        self.name = name
        self.repeats: list[Repeat] = []
        context = multiprocessing.get_context("forkserver")
        self._running = []
        for job in jobs:
            ours, theirs = context.Pipe()
            process = context.Process(target=serve, args=(job, theirs), daemon=True)
            process.start()
            theirs.close()
            self._running.append((process, ours))

    def await_ready(self) -> None:
        """Block until all processes have made their networks."""
        for _ in self._answers():
            pass

    def _answers(self) -> Iterator[Repeat]:
        for process, connection in self._running:
            if not connection.poll(WAIT_SECONDS):
                raise TimeoutError(f"case {self.name!r}: no answer for {WAIT_SECONDS} seconds")
            try:
                yield connection.recv()
            except EOFError:
                process.join()
                raise ChildProcessError(f"case {self.name!r}: its process ended with {process.exitcode}") from None

    def repeat(self) -> Repeat:
        """One repeat: the slowest process's time, the sum of CPU time and memory."""
        for _, connection in self._running:
            connection.send(True)
        parts = list(self._answers())
        whole = Repeat(
            images=parts[0].images,
            seconds=max(part.seconds for part in parts),
            cpu_seconds=sum(part.cpu_seconds for part in parts),
            peak_bytes=sum(part.peak_bytes for part in parts),
        )
        self.repeats.append(whole)
        return whole

    def close(self) -> None:
        """End the processes; one that does not end by itself is killed."""
        for process, connection in self._running:
            if process.is_alive():
                connection.send(False)
        for process, _ in self._running:
            process.join(10)
            process.kill()


@contextmanager
def started(cases: dict[str, Sequence[Job]]) -> Iterator[dict[str, Workers]]:
    """The processes of a group of cases, ready; ended on leaving."""
    group = {name: Workers(name, jobs) for name, jobs in cases.items()}
    try:
        for workers in group.values():
            workers.await_ready()
        yield group
    finally:
        for workers in group.values():
            workers.close()


def measure(cases: dict[str, Sequence[Job]], repeats: int) -> tuple[list[Row], dict[str, list[Repeat]]]:
    """Rows of a group whose cases take turns, and each case's repeats without the first, which warms up."""
    with started(cases) as group:
        rows = interleave([Case(name=name, repeat=workers.repeat) for name, workers in group.items()], repeats)
        return rows, {name: workers.repeats[1:] for name, workers in group.items()}


def rates(repeats: Sequence[Repeat], clock: str) -> list[float]:
    """Images per second of wall (`seconds`) or CPU time (`cpu_seconds`), round by round."""
    return [repeat.images / getattr(repeat, clock) for repeat in repeats]


def ratio(of: Sequence[Repeat], to: Sequence[Sequence[Repeat]]) -> dict[str, Spread]:
    """Of one case's rate to the lowest of others', round by round, on both clocks."""
    return {
        clock: Spread.of(
            [rate / min(others) for rate, *others in zip(rates(of, clock), *(rates(other, clock) for other in to))]
        )
        for clock in ("seconds", "cpu_seconds")
    }


def run(quick: bool, out: Path) -> None:
    """Measure all groups and write `out`/step.{json,md,png}."""
    multiprocessing.set_forkserver_preload([serve.__module__])  # imported once, not by each: 2.5 s of a core
    width, batch, batches, repeats = SETTINGS[quick]
    cores = len(os.sched_getaffinity(0))
    base = Job(recipe=RECIPE, width=width, batch=batch, threads=cores)
    rows: list[Row] = []
    ratios: dict[str, dict[str, Spread]] = {}
    with data.shards(batch * batches) as shards, tempfile.TemporaryDirectory() as folder:
        found, times = measure(norm_cases(base, Path(folder) / "meeting"), repeats)
        rows += found
        ours, kept = times["our norms"], times["our norms, memory kept"]
        ratios["ours to PyTorch's"] = ratio(ours, [times["PyTorch's norms"]])
        ratios["ours to none"] = ratio(ours, [times["no norms"]])
        ratios["memory kept to not"] = ratio(kept, [ours])
        if "split in two" in times:
            ratios["split to unsplit"] = ratio(times["split in two"], [kept])
        loading = dataclasses.replace(base, shards=shards.path)
        group: dict[str, Sequence[Job]] = {
            "loader alone": [dataclasses.replace(loading, network=False)],
            "step alone": [dataclasses.replace(base, steps=batches)],
            "loader and step together": [loading],
        }
        found, times = measure(group, repeats)
        rows += found
        ratios["together to the slower of the two"] = ratio(
            times["loader and step together"], [times["loader alone"], times["step alone"]]
        )
        write_tables(
            "step",
            rows,
            out=out,
            title=f"Training step, batch {batch}, width {width:g}",
            data_set=data.describe(shards),
            operations=f"forward, backward and update in float32 with dropout, recipe {RECIPE}, the response norms "
            f"as named; one synthetic batch of {batch}, or an epoch of {batches} batches decoded and augmented; "
            f"{cores} threads, or one process a tower with half of them",
            cache="page cache warm",
            quick=quick,
            remarks=[
                f"{name}: {spread(r['seconds'])} by wall time, {spread(r['cpu_seconds'])} by CPU time"
                for name, r in ratios.items()
            ],
            extra={
                "ratios": {name: {clock: dataclasses.asdict(s) for clock, s in r.items()} for name, r in ratios.items()}
            },
        )


def norm_cases(job: Job, meeting: Path) -> dict[str, Sequence[Job]]:
    """The cases of one recipe. The split one is left out where there is one GPU only."""
    cases: dict[str, Sequence[Job]] = {
        f"{name} norms": [dataclasses.replace(job, norm=norm, keep_memory=False)]
        for name, norm in (("our", "ours"), ("PyTorch's", "pytorch"), ("no", "none"))
    }
    cases["our norms, memory kept"] = [dataclasses.replace(job, norm="ours")]
    if torch.cuda.device_count() != 1:
        tower = dataclasses.replace(job, threads=max(1, job.threads // 2), meeting=meeting)
        cases["split in two"] = [dataclasses.replace(tower, rank=rank) for rank in (0, 1)]
    return cases
