"""torch DataLoader + simplejpeg (libjpeg-turbo), as fast as two worker processes go.

A worker is asked for a whole batch, decodes it, and standardizes it straight into memory that it shares with the main
process, so that nothing is collated, copied, or allocated anew; workers live through all epochs.
"""

import mmap
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, get_worker_info

from benchmarks.peers.work import CROP, AugmentationTable, Delivered, Job, Normalizer, turbo, write_files

AHEAD = 2  # batches that each worker makes ahead of need: torch's prefetch_factor


class SharedRing:
    """Float32 batches in memory that forked workers share with their parent; each worker fills its own in turn.

    A worker has at most AHEAD batches waiting, one in the consumer's hands, and one in the making.
    """

    SLOTS = AHEAD + 2

    def __init__(self, workers: int, batch_size: int) -> None:
        shape = (workers, self.SLOTS, batch_size, CROP, CROP, 3)
        memory = mmap.mmap(-1, 4 * int(np.prod(shape)))
        self._batches = np.frombuffer(memory, np.float32).reshape(shape)
        self._made = 0

    def take(self) -> tuple[tuple[int, int], np.ndarray]:
        """In a worker: the place of its next batch and the memory to fill."""
        worker = get_worker_info()
        assert worker is not None
        place = worker.id, self._made % self.SLOTS
        self._made += 1
        return place, self._batches[place]

    def delivered(self, place: Sequence[int], ids: torch.Tensor) -> Delivered:
        """In the parent: the batch at `place`."""
        images = torch.from_numpy(self._batches[tuple(place)])
        return Delivered(images=images.permute(0, 3, 1, 2), ids=ids)


class _Photographs(Dataset[tuple[tuple[int, int], torch.Tensor]]):
    def __init__(self, job: Job, table: AugmentationTable, ring: SharedRing) -> None:
        self._job, self._rows, self._ring = job, table.rows, ring
        self._normalize = Normalizer(job.mean_image())

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, ids: list[int]) -> tuple[tuple[int, int], torch.Tensor]:
        place, out = self._ring.take()
        self._normalize.batch(map(self._job.read, ids), self._rows[ids], out, turbo)
        return place, torch.tensor(ids)


class Peer:
    """Batches from persistent workers, through shared memory."""

    note = "worker processes"
    ahead = 0

    def __init__(self, job: Job, table: AugmentationTable) -> None:
        write_files(job.shards(), job.files)
        self._ring = SharedRing(job.workers, job.batch_size)
        photographs = _Photographs(job, table, self._ring)
        self._loader = DataLoader(
            photographs,
            batch_size=None,
            sampler=BatchSampler(RandomSampler(photographs), job.batch_size, drop_last=True),
            num_workers=job.workers,
            prefetch_factor=AHEAD,
            persistent_workers=True,
            multiprocessing_context="fork",
        )

    def epoch(self) -> Iterator[Delivered]:
        for place, ids in self._loader:
            yield self._ring.delivered(place, ids)
