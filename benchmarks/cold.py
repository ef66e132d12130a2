"""Reading from a cold disk, and what size costs: `python -m benchmarks cold [--quick]`.

Questions: with the page cache dropped, what does each order of reading cost, and how much more is read than is used?
And do opening, ordering and stepping through a split cost the same at the size of ImageNet and far beyond it?
Leaves: `cold.json`, `cold.md`, `cold.png`.
"""

import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import data
from benchmarks.measure import MINIMUM_REPEATS, Case, Repeat, Row, interleave, timed
from benchmarks.processes import Worker
from benchmarks.results import write_tables
from benchmarks.simulated import BATCH, SimulatedEpochs, simulate
from dali_pipelines import EpochOrder
from dali_pipelines.read_ahead import reading_ahead
from sharding import ShardSet

SIZES = {False: (4096, 1024), True: (256, 128)}  # quick: samples, samples in a shard; the loader benchmark's
SHARDS = (128, 1400, 10_000)  # of SAMPLES_PER_SHARD: 1.28, 14 and 100 million samples
SAMPLES_PER_SHARD = 10_000
STEPS = {False: 1000, True: 50}
ORDERS = {  # name: in sequence or not, the window, with the loader's hints or not, cold or not
    "read in sequence, warm": (True, None, False, False),
    "read in sequence, cold": (True, None, False, True),
    "read in a window of 1 shard, cold": (False, 1, True, True),
    "read in global order, mapped, cold": (False, None, False, True),
    "read in global order, as the loader does, cold": (False, None, True, True),
}
OPERATIONS = (
    "reading: JPEG bytes of the first quarter of an epoch from memory-mapped tars, in batches of 128, every byte "
    "touched (a quarter, so that what the system reads around a sample and does not use shows in the bytes from the "
    "disk); before each repeat the tars are dropped from the page cache (fsync, posix_fadvise DONTNEED), "
    "except where warm. window and global order: with the loader's own hints to the system, except where mapped only. "
    "size: hard links to one tar of 16-byte pictures; open = manifest, sizes of all files, a label in each shard; "
    "order = the epoch's global permutation; step through = ids, labels, addresses and augmentation of batches of 128 "
    "spread over the epoch. Memory is what the process holds of its own (not the mapped files) more than before."
)


def run(quick: bool, out: Path) -> None:
    """Measures both and publishes one table."""
    samples, in_shard = SIZES[quick]
    with data.shards(samples, samples_per_shard=in_shard) as shards:
        write_tables(
            "cold",
            reading(shards) + size(quick),
            out=out,
            title="Cold reads, and the price of size: samples per CPU-second",
            data_set=data.describe(shards),
            operations=OPERATIONS,
            cache="page cache dropped before each repeat where the row says cold",
            quick=quick,
        )


def reading(shards: ShardSet) -> list[Row]:
    """A row for each of `ORDERS`, with the bytes that came from the disk for each byte used."""
    from_disk: dict[str, list[float]] = {name: [] for name in ORDERS}
    shards.close()  # pages that are mapped stay in the cache
    rows = interleave(
        [Case(name=name, repeat=partial(read, shards.path, *order, from_disk[name])) for name, order in ORDERS.items()]
    )
    notes = {
        name: f"{np.median(values[1:]):.2f} × the bytes used came from the disk" for name, values in from_disk.items()
    }
    return [replace(row, peak_bytes=0, note=notes[row.name]) for row in rows]


def read(path: Path, sequence: bool, window: int | None, hints: bool, cold: bool, from_disk: list[float]) -> Repeat:
    """One repeat: touches every byte of the first quarter; appends bytes from the disk per byte touched."""
    with ShardSet.open(path) as shards:
        drop(shards)
        if not cold:
            for name in shards.shard_names:
                (path / name).read_bytes()
        before, touched = disk_bytes(), 0

        def work() -> int:
            nonlocal touched
            images = 0
            for ids in batches(shards, sequence, window, hints):
                for view in shards.images(ids):
                    view.sum()
                    touched += view.nbytes
                images += len(ids)
            return images

        repeat = timed(work)
    from_disk.append((disk_bytes() - before) / touched)
    return repeat


def batches(shards: ShardSet, sequence: bool, window: int | None, hints: bool) -> Iterator[np.ndarray]:
    """Ids of the first quarter of an epoch, 128 at a time; `hints`: the system is told what comes, as by the loader."""
    epoch = EpochOrder(shards.shard_sizes, 0, 0, window)
    order = np.arange(len(shards)) if sequence else epoch[np.arange(len(shards))]
    if not hints:
        yield from (order[first : first + BATCH] for first in range(0, len(shards) // 4, BATCH))
        return
    with reading_ahead(shards, epoch.shard_groups()) as reading:
        for first in range(0, len(shards) // 4, BATCH):
            ids = order[first : first + BATCH]
            reading.reach(first, ids, order[first + BATCH : first + 2 * BATCH])
            yield ids


def drop(shards: ShardSet) -> None:
    """Drops the tars from the page cache; their dirty pages are written first, since only clean ones can go."""
    for name in shards.shard_names:
        descriptor = os.open(shards.path / name, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def disk_bytes() -> int:
    """Bytes that this process has had fetched from storage so far (Linux /proc)."""
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(lines["read_bytes"])


def size(quick: bool) -> list[Row]:
    """Rows of opening, ordering and stepping through simulated splits; the largest says how time grows with samples."""
    rows: dict[str, list[Row]] = {}
    samples = [shards * SAMPLES_PER_SHARD for shards in SHARDS]
    with tempfile.TemporaryDirectory(prefix="simulated-", dir=data.WORK) as folder:
        for number, shards in enumerate(SHARDS):
            split = simulate(Path(folder) / str(number) / "train", shards, SAMPLES_PER_SHARD)
            repeats = 1 if quick and number == len(SHARDS) - 1 else MINIMUM_REPEATS
            with Worker(str(split), SimulatedEpochs, split, STEPS[quick]) as worker:
                worker.await_ready()
                for name, (measured, memory) in worker.call("measure", repeats).items():
                    seconds = float(np.median([repeat.cpu_seconds for repeat in measured]))
                    row = Row(name=f"{name}: {samples[number]:,} samples").measured(measured)
                    details = {"cpu_seconds": seconds, "memory_bytes": memory}
                    rows.setdefault(name, []).append(replace(row, peak_bytes=0, details=details))
    return [row for group in rows.values() for row in with_growth(group, samples)]


def with_growth(rows: list[Row], samples: list[int]) -> list[Row]:
    """The rows of one operation, each with its time and memory in words, the last with their growth."""
    seconds = [float(str(row.details["cpu_seconds"])) for row in rows]
    notes = [
        f"{1e3 * spent:.3g} ms, {float(str(row.details['memory_bytes'])) / 1e6:+.1f} MB" + ", once" * (row.repeats == 1)
        for row, spent in zip(rows, seconds)
    ]
    notes[-1] += f"; time ∝ samples^{exponent(samples, seconds):.2f}"
    return [replace(row, note=note) for row, note in zip(rows, notes)]


def exponent(samples: list[int], values: list[float]) -> float:
    """k of values ∝ samples^k, by least squares on logarithms."""
    return float(np.polyfit(np.log(samples), np.log(values), 1)[0])
