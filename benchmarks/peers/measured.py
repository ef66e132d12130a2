"""A peer in its own process: repeats of its epochs are measured, and its pictures taken to be compared with ours."""

import importlib
import time
from collections.abc import Iterator

import numpy as np
import torch

from benchmarks.measure import Repeat, cpu_seconds, forget_peaks, peak_bytes
from benchmarks.peers import Entry
from benchmarks.peers.work import AugmentationTable, Delivered, Job, Peer

COMPARED = 16  # pictures of the first batch
SAME = 1e-2  # gray levels: float32 sums in another order
Pictures = dict[int, np.ndarray]


def open_peer(entry: Entry, job: Job, rows: np.ndarray, covariance_root: np.ndarray) -> "MeasuredPeer":
    """The peer of `entry` ready to be measured; `rows` are what it does to each sample when it is compared."""
    torch.set_num_threads(1)
    table = AugmentationTable(len(job.shards()), covariance_root)
    table.rows[:] = rows[: len(table.rows)]
    module, _, name = entry.loader.partition(":")
    peer = getattr(importlib.import_module(f"benchmarks.peers.{module}"), name)(job, table)
    return MeasuredPeer(peer, table, job.epochs)


class MeasuredPeer:
    """A peer, its table, and the CPU time that was spent when its last epoch ended.

    CPU time is counted from the end of one repeat to the end of the next, so that what a loader prepares in
    between, while others have their turn, is on its own bill.
    """

    def __init__(self, peer: Peer, table: AugmentationTable, epochs: int) -> None:
        self._peer, self._table, self._epochs = peer, table, epochs
        self._random = np.random.default_rng(0)
        self._cpu_seconds = cpu_seconds()

    def note(self) -> str:
        """What a reader of the table should know of it."""
        return self._peer.note

    def repeat(self) -> Repeat:
        """All epochs of one repeat, as fast as the peer delivers, with new crops and colors.

        The batches that a peer has ready before it is asked are taken first and not counted.
        """
        forget_peaks()
        batches = self._batches()
        ready = [len(next(batches).ids) for _ in range(self._peer.ahead)]
        start = asked = time.perf_counter()
        images, waits = 0, []
        for batch in batches:
            waits.append(time.perf_counter() - asked)
            images += len(batch.ids)
            asked = time.perf_counter()
        seconds = time.perf_counter() - start
        before, self._cpu_seconds = self._cpu_seconds, cpu_seconds()
        return Repeat(
            images=images,
            seconds=seconds,
            cpu_seconds=(self._cpu_seconds - before) * images / (images + sum(ready)),
            peak_bytes=peak_bytes(),
            waits_seconds=tuple(waits),
        )

    def _batches(self) -> Iterator[Delivered]:
        for _ in range(self._epochs):
            self._table.draw(self._random)
            yield from self._peer.epoch()

    def pictures(self, ids: frozenset[int] | None) -> Pictures:
        """Pictures float32 [224, 224, 3] of one epoch as the table has them: those of `ids`, or of the first batch."""
        pictures: Pictures = {}
        for batch in [self._peer.compared] if self._peer.compared else self._peer.epoch():
            numbers = batch.ids.tolist()
            if ids is None:
                ids = frozenset(numbers[:COMPARED])
            for number, image in zip(numbers, batch.images):
                if number in ids:
                    pictures[number] = image.permute(1, 2, 0).numpy().copy()
        self._cpu_seconds = cpu_seconds()
        return pictures


def difference(theirs: Pictures, ours: Pictures) -> tuple[float, float]:
    """Mean and largest difference, in gray levels, of their pictures from ours of the same ids."""
    gaps = np.stack([np.abs(picture - ours[number]) for number, picture in theirs.items()])
    return float(gaps.mean()), float(gaps.max())


def difference_note(theirs: Pictures, ours: Pictures) -> str:
    """What the table says of it."""
    mean, largest = difference(theirs, ours)
    return "same pixels" if largest <= SAME else f"PIXELS DIFFER by {mean:.2f} gray levels, at most {largest:.0f}"
