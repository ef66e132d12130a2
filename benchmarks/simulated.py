"""Splits of any size that take little room, to see what size alone costs: time and memory of everything but pixels.

Enters: a number of shards and of samples in each. Leaves: a split whose shards are hard links to one small tar of
tiny pictures, and what it costs to open it, to order an epoch, and to go through the epoch's steps.
"""

import hashlib
import os
from pathlib import Path

import numpy as np

from benchmarks.measure import Repeat, own_bytes, timed
from dali_pipelines import EpochOrder, draw
from sharding import ClassInfo, ShardSet, Statistics
from sharding.manifest import Manifest, ShardInfo
from sharding.shard import ShardWriter, rows_of, write_table

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
    rows = rows_of(writer.entries)
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


class SimulatedEpochs:
    """Epochs of a split without its pixels. `open`, `order` and `step` return how many samples their work was for."""

    def __init__(self, split: Path, steps: int) -> None:
        self._split, self._steps, self._epoch = split, steps, 0

    def measure(self, repeats: int) -> dict[str, tuple[list[Repeat], int]]:
        """Of each operation: its repeats, after a warm-up if there are several, and memory taken by the end of it."""
        works = {"open": self.open, "order": self.order, "step through": self.step}
        times: dict[str, list[Repeat]] = {name: [] for name in works}
        memory: dict[str, int] = {}
        before, warm_ups = own_bytes(), int(repeats > 1)
        for self._epoch in range(warm_ups + repeats):
            for name, work in works.items():
                repeat = timed(work)
                memory.setdefault(name, own_bytes() - before)  # once: what gives memory back makes the next ask anew
                if self._epoch >= warm_ups:
                    times[name].append(repeat)
            self._shards.close()
        return {name: (times[name], memory[name]) for name in works}

    def open(self) -> int:
        """Opens the split and looks one label of each shard up."""
        self._shards = ShardSet.open(self._split)
        self._shards.labels(np.cumsum(self._shards.shard_sizes) - 1)
        return len(self._shards)

    def order(self) -> int:
        """The epoch's global permutation."""
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
            draw("paper", 0, self._epoch, ids, positions, STATISTICS)
        return steps * BATCH
