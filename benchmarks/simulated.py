"""Splits of any size that take no room, to see what size alone costs: time and memory of everything but pixels.

Enters: a number of shards and of samples in each. Leaves: a split whose shards are hard links to one small tar of
tiny pictures, and the cost of opening it, ordering an epoch, and going through the epoch's steps.
"""

import ctypes
import os
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from benchmarks.measure import Repeat, timed
from dali_pipelines import draw, epoch_order
from sharding import ClassInfo, ShardSet, Statistics
from sharding.manifest import Manifest, ShardInfo
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
    names = [f"train-{number:06d}.tar" for number in range(shards)]
    for name in names[1:]:
        os.link(first, folder / name)
        os.link(first.with_suffix(".idx"), (folder / name).with_suffix(".idx"))
    Manifest(
        split="train",
        encoding="jpeg",
        samples=shards * samples_per_shard,
        classes=[ClassInfo(number, f"n{number:08d}", f"class {number}") for number in range(CLASSES)],
        options={},
        shards=[ShardInfo(name, samples_per_shard, writer.bytes, writer.sha256) for name in names],
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
    ours, theirs = get_context("fork").Pipe()
    process = get_context("fork").Process(target=_measure, args=(theirs, split, steps, repeats))
    process.start()
    theirs.close()
    found = ours.recv()
    process.join()
    return found


def _measure(connection: Connection, split: Path, steps: int, repeats: int) -> None:
    found: dict[str, list[Repeat]] = {"open": [], "order": [], "step through": []}
    memory: dict[str, int] = {}
    before = own_bytes()
    warm_ups = int(repeats > 1)
    for epoch in range(warm_ups + repeats):
        walk = Walk(split, epoch, steps)
        for name, work in zip(found, (walk.open, walk.order, walk.step)):
            repeat = timed(work)
            if name not in memory:  # once: what gives memory back would make the next repeats ask for it anew
                memory[name] = own_bytes() - before
            if epoch >= warm_ups:
                found[name].append(repeat)
        walk.shards.close()
    connection.send(Cost(samples=len(walk.shards), repeats=found, memory_bytes=memory))


def own_bytes() -> int:
    """Resident memory of this process that belongs to it alone; pages of mapped files do not count.

    What was freed goes back to the system first: a process that was forked from one that had done much would else take
    what that one had left, and seem to need nothing.
    """
    ctypes.CDLL(None).malloc_trim(0)
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["RssAnon"].split()[0]) * 1024


class Walk:
    """One epoch of a split without its pixels. Each method returns how many samples its work was for."""

    def __init__(self, split: Path, epoch: int, steps: int) -> None:
        self._split, self._epoch, self._steps = split, epoch, steps

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
