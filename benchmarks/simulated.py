"""Splits of any size that take no room, to see what size alone costs: time and memory of everything but pixels.

Enters: a number of shards and of samples in each. Leaves: a split whose shards are hard links to one small tar of
tiny pictures, and the cost of opening it, ordering an epoch, and going through the epoch's steps.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.measure import Repeat, own_bytes, timed
from benchmarks.processes import Worker
from dali_pipelines import draw, epoch_order
from sharding import ClassInfo, ShardSet, Statistics
from sharding.manifest import Manifest, ShardInfo
from sharding.sample_table import rows_of_entries, write_table
from sharding.shard import ShardWriter

CLASSES, BATCH = 1000, 128
STATISTICS = Statistics(
    mean_image=np.zeros((256, 256, 3)),
    rgb_mean=np.zeros(3),
    rgb_covariance=np.eye(3),
    eigenvalues=np.ones(3),
    eigenvectors=np.eye(3),
    images=1,
)


def simulate(folder: Path, shards: int, samples_per_shard: int) -> Path:
    """Makes the split `folder` of shards × samples_per_shard samples; each picture is 16 bytes."""
    folder.mkdir(parents=True)
    first = folder / "train-000000.tar"
    with first.open("wb") as file:
        writer = ShardWriter(file, "jpeg")
        for number in range(samples_per_shard):
            writer.add(f"n{number % CLASSES:08d}/n{number % CLASSES:08d}_{number}", b"\xff" * 16, number % CLASSES)
        writer.finish()
    first.with_suffix(".idx").write_text(writer.index())
    sha256 = hashlib.sha256(first.read_bytes()).hexdigest()
    names = [f"train-{number:06d}.tar" for number in range(shards)]
    for name in names[1:]:
        os.link(first, folder / name)
        os.link(first.with_suffix(".idx"), (folder / name).with_suffix(".idx"))
    infos = [ShardInfo(name, samples_per_shard, writer.bytes, sha256) for name in names]
    rows = rows_of_entries(writer.entries)
    write_table(folder, infos, (rows for _ in names))
    Manifest(
        split="train",
        encoding="jpeg",
        samples=shards * samples_per_shard,
        classes=[ClassInfo(number, f"n{number:08d}", f"class {number}") for number in range(CLASSES)],
        options={},
        shards=infos,
    ).save(folder / "manifest.json")
    return folder


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a split of `samples` costs: repeats of each operation, and the memory that was taken by the end of it."""

    samples: int
    repeats: dict[str, list[Repeat]]
    memory_bytes: dict[str, int]


def cost(split: Path, steps: int, repeats: int) -> Cost:
    """Opens, orders and steps through `split` in a process of its own, `repeats` times after a warm-up (if not once).

    `steps` steps spread over the epoch stand for all of them; their time is scaled to the whole.
    """
    with Worker(str(split), Walk, split, steps) as worker:
        worker.await_ready()
        samples, times, memory = worker.call("measure", repeats)
    return Cost(samples=samples, repeats=times, memory_bytes=memory)


class Walk:
    """Epochs of a split without its pixels. `open`, `order` and `step` return how many samples their work was for."""

    def __init__(self, split: Path, steps: int) -> None:
        self._split, self._epoch, self._steps = split, 0, steps

    def measure(self, repeats: int) -> tuple[int, dict[str, list[Repeat]], dict[str, int]]:
        """Samples; repeats of each operation, after a warm-up if there are several; memory taken by the end of it."""
        works = {"open": self.open, "order": self.order, "step through": self.step}
        times: dict[str, list[Repeat]] = {name: [] for name in works}
        memory: dict[str, int] = {}
        before, warm_ups = own_bytes(), int(repeats > 1)
        for self._epoch in range(warm_ups + repeats):
            for name, work in works.items():
                repeat = timed(work)
                if name not in memory:  # once: what gives memory back would make the next repeats ask for it anew
                    memory[name] = own_bytes() - before
                if self._epoch >= warm_ups:
                    times[name].append(repeat)
            self.shards.close()
        return len(self.shards), times, memory

    def open(self) -> int:
        """Opens the split and looks one sample of each shard up, which reads every index."""
        self.shards = ShardSet.open(self._split)
        self.shards.labels(np.cumsum(self.shards.shard_sizes) - 1)
        return len(self.shards)

    def order(self) -> int:
        """The epoch's global permutation."""
        self._order = epoch_order(self.shards.shard_sizes, 0, self._epoch)
        return len(self.shards)

    def step(self) -> int:
        """What the loader does for a step before it decodes: ids, labels, views of the tars, augmentation."""
        steps = min(self._steps, len(self._order) // BATCH)
        firsts = np.linspace(0, len(self._order) - BATCH, steps).astype(np.int64)
        for first in firsts:
            positions = np.arange(first, first + BATCH)
            ids = self._order[positions]
            self.shards.labels(ids)
            self.shards.images(ids)
            draw("paper", 0, self._epoch, ids, positions, STATISTICS)
        return steps * BATCH
