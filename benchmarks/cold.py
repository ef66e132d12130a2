"""Reading from a cold disk, and what size costs: `python -m benchmarks cold [--quick]`.

Questions: with the page cache dropped, what does each order of reading cost, and how much more is read than is used?
And do opening, ordering and stepping through a split cost the same at the size of ImageNet and far beyond it?
Leaves: `cold.json`, `cold.md`, `cold.png`.
"""

import hashlib
import os
import resource
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import data
from benchmarks.measure import Repeat, Row, interleave, own_bytes, timed
from benchmarks.processes import own_process
from benchmarks.results import Table
from dali_pipelines import EpochOrder, draw
from dali_pipelines.order import ReadAhead
from sharding import ClassInfo, ShardSet, Statistics
from sharding.manifest import Manifest, ShardInfo
from sharding.shard import Entry, index_text, rows_of, sample_members, tar_end, write_table

SIZES = {False: (4096, 1024), True: (256, 128)}  # quick: samples, samples in a shard; the loader benchmark's
SHARDS = (128, 1400, 10_000)  # of SAMPLES_PER_SHARD: 1.28, 14 and 100 million samples
SAMPLES_PER_SHARD = 10_000
CLASSES, BATCH = 1000, 128
STEPS = {False: 1000, True: 50}
ORDERS = {  # name: in sequence or not, the window, with the loader's hints or not
    "read in sequence": (True, None, False),
    "read in a window of 1 shard": (False, 1, True),
    "read in global order, mapped": (False, None, False),
    "read in global order, as the loader does": (False, None, True),
}
OPERATIONS = (
    "reading: JPEG bytes of the first quarter of an epoch from memory-mapped tars, in batches of 128, every byte "
    "touched (a quarter, so that what the system reads around a sample and does not use shows in the bytes from the "
    "disk); before each repeat the tars are dropped from the page cache (fsync, posix_fadvise DONTNEED). Window and "
    "global order: with the loader's own hints to the system, except where mapped only. "
    "size: hard links to one tar of 16-byte pictures; open = manifest, sizes of all files, a label in each shard; "
    "order = the epoch's global permutation; step through = ids, labels, addresses and augmentation of batches of 128 "
    "spread over the epoch. Memory is what the process holds of its own (not the mapped files) more than before."
)


def run(quick: bool) -> Table:
    """Measures both."""
    samples, in_shard = SIZES[quick]
    with data.shards(samples, samples_per_shard=in_shard) as shards:
        return Table(
            title="Cold reads, and the price of size: samples per CPU-second",
            rows=reading(shards) + size(quick),
            data_set=data.describe(shards),
            operations=OPERATIONS,
            cache="page cache dropped before each reading",
        )


def reading(shards: ShardSet) -> list[Row]:
    """A row for each of `ORDERS`, with the bytes that came from the disk for each byte used."""
    from_disk: dict[str, list[float]] = {name: [] for name in ORDERS}
    shards.close()  # pages that are mapped stay in the cache
    rows = interleave({name: partial(read, shards.path, *order, from_disk[name]) for name, order in ORDERS.items()})
    used = "{:.2f} × the bytes used came from the disk"
    return [replace(row, note=used.format(np.median(from_disk[name][1:]))) for name, row in rows.items()]


def read(path: Path, sequence: bool, window: int | None, hints: bool, from_disk: list[float]) -> Repeat:
    """One repeat: touches every byte of the first quarter; appends bytes from the disk per byte touched."""
    with ShardSet.open(path) as shards:
        drop(shards)
        before, touched = resource.getrusage(resource.RUSAGE_SELF).ru_inblock, 0

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
    blocks = resource.getrusage(resource.RUSAGE_SELF).ru_inblock - before
    from_disk.append(512 * blocks / touched)
    return replace(repeat, peak_bytes=0)  # mapped files are a part of it


def batches(shards: ShardSet, sequence: bool, window: int | None, hints: bool) -> Iterator[np.ndarray]:
    """Ids of the first quarter of an epoch, 128 at a time; `hints`: the system is told what comes, as by the loader."""
    epoch = EpochOrder(shards.shard_sizes, 0, 0, window)
    order = np.arange(len(shards)) if sequence else epoch[np.arange(len(shards))]
    with closing(ReadAhead(shards, epoch.shard_groups())) if hints else nullcontext() as reading:
        for first in range(0, len(shards) // 4, BATCH):
            if reading:
                reading.reach(first, order[first : first + BATCH], order[first + BATCH : first + 2 * BATCH])
            yield order[first : first + BATCH]


def drop(shards: ShardSet) -> None:
    """Drops the tars from the page cache; their dirty pages are written first, since only clean ones can go."""
    for name in shards.shard_names:
        with (shards.path / name).open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def size(quick: bool) -> list[Row]:
    """Rows of opening, ordering and stepping through simulated splits; the largest says how time grows with samples."""
    rows: dict[str, list[Row]] = {}
    samples = [shards * SAMPLES_PER_SHARD for shards in SHARDS]
    with tempfile.TemporaryDirectory(prefix="simulated-", dir=data.WORK) as folder:
        for shards in SHARDS:
            split = simulate(Path(folder) / str(shards) / "train", shards, SAMPLES_PER_SHARD)
            with own_process(__name__) as process:  # so that what it holds of its own is for this split
                measured = process.submit(SimulatedEpochs(split, STEPS[quick]).measure).result()
            for name, row in measured.items():
                rows.setdefault(name, []).append(replace(row, name=f"{name}: {shards * SAMPLES_PER_SHARD:,} samples"))
    return [row for group in rows.values() for row in with_growth(group, samples)]


def with_growth(rows: list[Row], samples: list[int]) -> list[Row]:
    """The rows of one operation, each with its time before its memory, the last with the growth of time."""
    seconds = [float(np.median([repeat.cpu_seconds for repeat in row.repeats])) for row in rows]
    notes = [f"{1e3 * spent:.3g} ms, {row.note}" for row, spent in zip(rows, seconds)]
    exponent, _ = np.polyfit(np.log(samples), np.log(seconds), 1)  # by least squares
    notes[-1] += f"; time ∝ samples^{exponent:.2f}"
    return [replace(row, note=note) for row, note in zip(rows, notes)]


def simulate(folder: Path, shards: int, samples_per_shard: int) -> Path:
    """Makes the split `folder` of shards × samples_per_shard samples, hard links to one tar of 16-byte pictures."""
    folder.mkdir(parents=True)
    first = folder / "train-000000.tar"
    entries = [Entry(f"n{number % CLASSES:08d}_{number}", 16, number % CLASSES) for number in range(samples_per_shard)]
    with first.open("wb") as file:
        for entry in entries:
            file.write(sample_members(entry.key, b"\xff" * 16, entry.label, "jpeg"))
        file.write(tar_end(file.tell()))
    first.with_suffix(".idx").write_text(index_text(entries, "jpg"))
    sha256 = hashlib.sha256(first.read_bytes()).hexdigest()
    names = [f"train-{number:06d}.tar" for number in range(shards)]
    for name in names[1:]:
        os.link(first, folder / name)
        os.link(first.with_suffix(".idx"), (folder / name).with_suffix(".idx"))
    infos = [ShardInfo(name, samples_per_shard, first.stat().st_size, sha256) for name in names]
    rows = rows_of(entries)
    write_table(folder, infos, (rows for _ in names))
    classes = [ClassInfo(number, f"n{number:08d}", f"class {number}") for number in range(CLASSES)]
    known: Any = {"split": "train", "encoding": "jpeg", "classes": classes, "options": {}, "shards": infos}
    Manifest(samples=shards * samples_per_shard, **known).save(folder / "manifest.json")
    return folder


class SimulatedEpochs:
    """Epochs of a split without its pixels. `open`, `order` and `step` return how many samples their work was for."""

    def __init__(self, split: Path, steps: int) -> None:
        self._split, self._steps, self._epoch = split, steps, 0
        colors = {"rgb_mean": np.zeros(3), "rgb_covariance": np.eye(3)}
        colors |= {"eigenvalues": np.ones(3), "eigenvectors": np.eye(3)}
        self._statistics = Statistics(mean_image=np.zeros((256, 256, 3)), images=1, **colors)

    def measure(self) -> dict[str, Row]:
        """A row of each operation, with the memory that was taken by its end when each was done once, to warm up."""

        def once(work: Callable[[], int]) -> Repeat:
            return replace(timed(work), peak_bytes=0)  # of which mapped files are a part

        works = {"open": self.open, "order": self.order, "step through": self.step}
        before, taken = own_bytes(), {}
        for name, work in works.items():
            work()
            taken[name] = own_bytes() - before
        rows = interleave({name: partial(once, work) for name, work in works.items()}, warm_ups=0)
        return {name: replace(row, note=f"{taken[name] / 1e6:+.1f} MB") for name, row in rows.items()}

    def open(self) -> int:
        """Opens the split and looks one label of each shard up."""
        self._shards = ShardSet.open(self._split)
        self._shards.labels(np.cumsum(self._shards.shard_sizes) - 1)
        return len(self._shards)

    def order(self) -> int:
        """The next epoch's global permutation."""
        self._epoch += 1
        self._order = EpochOrder(self._shards.shard_sizes, 0, self._epoch)
        return len(self._shards)

    def step(self) -> int:
        """What the loader does for a step before it decodes: ids, labels, where pictures lie, augmentation."""
        steps = min(self._steps, len(self._shards) // BATCH)
        for first in np.linspace(0, len(self._shards) - BATCH, steps).astype(np.int64):
            positions = np.arange(first, first + BATCH)
            ids = self._order[positions]
            self._shards.labels(ids)
            self._shards.addresses(ids)
            draw("paper", 0, self._epoch, ids, positions, self._statistics)
        return steps * BATCH
