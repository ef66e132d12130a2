"""Reading from a cold disk, and what size costs: `python -m benchmarks cold [--quick]`.

Questions: with the page cache dropped, what does each order of reading cost, and how much more is read than is used?
And do opening, ordering and stepping through a split stay cheap at the size of ImageNet?
Leaves: `cold.json`, `cold.md`, `cold.png`.
"""

import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from benchmarks import data
from benchmarks.measure import MINIMUM_REPEATS, Case, Repeat, Row, interleave, timed
from benchmarks.results import write_tables
from benchmarks.simulated import BATCH, Cost, cost, simulate
from dali_pipelines import epoch_order
from dali_pipelines.order import shard_order
from sharding import ShardSet

SIZES = {False: (4096, 1024), True: (256, 128)}  # quick: samples, samples in a shard; the loader benchmark's
SHARDS = ((13, 1_000), (13, 10_000), (128, 10_000))  # 13 thousand, 130 thousand, 1.28 million samples
STEPS = {False: 1000, True: 50}
WINDOW = 1
PART = 4

OPERATIONS = (
    "reading: JPEG bytes of the first quarter of an epoch from memory-mapped tars, in batches of 128, every byte "
    "touched (a quarter, so that what the system reads around a sample and does not use shows in the bytes from the "
    "disk); before each repeat the tars are closed and dropped from the page cache (fsync, posix_fadvise DONTNEED), "
    f"except where warm. window: shuffled within {WINDOW} shard at a time, the next one read ahead (madvise WILLNEED). "
    "size: hard links to one tar of 16-byte pictures; open = manifest, every index and a label in each shard; "
    "order = the epoch's global permutation; step through = ids, labels, views and augmentation of batches of 128 "
    "spread over the epoch. Memory is what the process holds of its own (not the mapped tars) more than before."
)


def run(quick: bool, out: Path) -> None:
    """Measures both and publishes one table."""
    samples, in_shard = SIZES[quick]
    shards = data.shards(samples, samples_per_shard=in_shard)
    rows = reading(shards) + size(quick)
    write_tables(
        "cold",
        rows,
        out=out,
        title="Cold reads, and the price of size: samples per CPU-second",
        data_set=data.describe(shards),
        operations=OPERATIONS,
        cache="page cache dropped before each repeat where the row says cold",
        quick=quick,
    )


def reading(shards: ShardSet) -> list[Row]:
    """Rows of sequential, windowed and global reading, cold, and of sequential reading from the page cache."""
    orders: dict[str, tuple[Callable[[], Iterable[np.ndarray]], bool]] = {
        "read in sequence, warm": (lambda: batches(np.arange(len(shards))), False),
        "read in sequence, cold": (lambda: batches(np.arange(len(shards))), True),
        f"read in a window of {WINDOW} shard, cold": (lambda: windowed(shards), True),
        "read in global order, mapped, cold": (lambda: batches(epoch_order(shards.shard_sizes, 0, 0)), True),
        "read in global order, as the loader does, cold": (lambda: asked_for(scattered), True),
    }
    scattered = ShardSet.open(shards.path)
    scattered.read_scattered()
    from_disk: dict[str, list[float]] = {name: [] for name in orders}

    def case(name: str) -> Case:
        order, cold = orders[name]
        opened = scattered if "as the loader does" in name else shards

        def repeat() -> Repeat:
            shards.close()  # pages that are mapped stay in the cache
            scattered.close()
            return read(opened, order, cold, from_disk[name])

        return Case(name=name, repeat=repeat)

    rows = interleave([case(name) for name in orders])
    return [
        dataclasses.replace(
            row, peak_bytes=0, note=f"{np.median(from_disk[row.name][1:]):.2f} × the bytes used came from the disk"
        )
        for row in rows
    ]


def read(shards: ShardSet, order: Callable[[], Iterable[np.ndarray]], cold: bool, from_disk: list[float]) -> Repeat:
    """One repeat: touches every byte of the first quarter; appends bytes from the disk per byte touched."""
    drop(shards)
    if not cold:
        for name in shards.shard_names:
            (shards.path / name).read_bytes()
    before, touched = disk_bytes(), 0

    def work() -> int:
        nonlocal touched
        images = 0
        for ids in order():
            for view in shards.images(ids):
                view.sum()
                touched += view.nbytes
            images += len(ids)
            if images >= len(shards) // PART:
                break
        return images

    repeat = timed(work)
    from_disk.append((disk_bytes() - before) / touched)
    return repeat


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


def batches(order: np.ndarray) -> list[np.ndarray]:
    """The order, 128 ids at a time."""
    return np.split(order, range(BATCH, len(order), BATCH))


def windowed(shards: ShardSet) -> Iterator[np.ndarray]:
    """Batches of a windowed epoch; when a window begins, the next one is asked for."""
    order = epoch_order(shards.shard_sizes, 0, 0, WINDOW)
    turns = shard_order(len(shards.shard_sizes), 0, 0)
    ends = np.cumsum(shards.shard_sizes[turns])
    for first in range(0, len(turns), WINDOW):
        for shard in turns[first : first + 2 * WINDOW]:
            shards.prefetch(int(shard))
        start = ends[first] - shards.shard_sizes[turns[first]]
        yield from batches(order[start : ends[min(first + WINDOW, len(turns)) - 1]])


def asked_for(shards: ShardSet) -> Iterator[np.ndarray]:
    """Batches of a global permutation; each is asked for while the one before it is read."""
    ahead = batches(epoch_order(shards.shard_sizes, 0, 0))
    shards.ask_for(ahead[0])
    for ids, upcoming in zip(ahead, [*ahead[1:], ahead[0][:0]]):
        shards.ask_for(upcoming)
        yield ids


def size(quick: bool) -> list[Row]:
    """Rows of opening, ordering and stepping through simulated splits, with how each grows."""
    with tempfile.TemporaryDirectory(prefix="simulated-", dir=data.WORK) as folder:
        costs = []
        for number, (shards, samples) in enumerate(SHARDS):
            split = simulate(Path(folder) / str(number) / "train", shards, samples)
            repeats = 1 if quick and number == len(SHARDS) - 1 else MINIMUM_REPEATS
            costs.append(cost(split, STEPS[quick], repeats))
    return [growth_row(costs, place, name) for name in costs[0].repeats for place in range(len(costs))]


def growth_row(costs: list[Cost], place: int, name: str) -> Row:
    """The row of one operation at one size; that of the largest size says how time and memory grow."""
    found = costs[place]
    seconds = [whole_seconds(cost_, name) for cost_ in costs]
    note = f"{seconds[place]:.3f} s, {found.memory_bytes[name] / 1e6:+.1f} MB"
    note += "" if len(found.repeats[name]) > 1 else ", once"
    if found is costs[-1]:
        samples = [cost_.samples for cost_ in costs]
        memory = [cost_.memory_bytes[name] for cost_ in costs]
        note += f"; time ∝ samples^{exponent(samples, seconds):.2f}"
        if min(memory) > 0:  # else too little to tell
            note += f", memory ∝ samples^{exponent(samples, memory):.2f}"
    row = Row(name=f"{name}: {found.samples:,} samples").measured(found.repeats[name])
    return dataclasses.replace(row, peak_bytes=0, note=note)


def whole_seconds(found: Cost, name: str) -> float:
    """CPU seconds for the whole split, the median of the repeats."""
    return float(np.median([repeat.cpu_seconds / repeat.images for repeat in found.repeats[name]])) * found.samples


def exponent(samples: list[int], values: list[float] | list[int]) -> float:
    """k of values ∝ samples^k, by least squares on logarithms."""
    return float(np.polyfit(np.log(samples), np.log(values), 1)[0])
