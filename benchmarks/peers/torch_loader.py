"""torch's DataLoader: with simplejpeg (libjpeg-turbo) as fast as it goes, and with Pillow as the seed does it."""

import mmap
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, get_worker_info

from benchmarks.peers.work import CROP, AugmentationTable, Delivered, Job, Peer, turbo

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
        """In a worker: the slot of its next batch and the memory to fill."""
        worker = get_worker_info()
        assert worker is not None
        slot = worker.id, self._made % self.SLOTS
        self._made += 1
        return slot, self._batches[slot]

    def delivered(self, slot: Sequence[int], ids: torch.Tensor) -> Delivered:
        """In the parent: the batch in `slot`."""
        images = torch.from_numpy(self._batches[tuple(slot)])
        return Delivered(images=images.permute(0, 3, 1, 2), ids=ids)


class Simplejpeg(Peer, Dataset[tuple[tuple[int, int], torch.Tensor]]):
    """As fast as two worker processes go: nothing is collated, copied, or allocated anew.

    A worker is asked for a whole batch, decodes it, and normalizes it into memory that the main process shares.
    """

    note = "worker processes"

    def __init__(self, job: Job, table: AugmentationTable) -> None:
        super().__init__(job, table)
        self._ring = SharedRing(job.workers, job.batch_size)
        self._loader = DataLoader(
            self,
            batch_size=None,
            sampler=BatchSampler(RandomSampler(self), job.batch_size, drop_last=True),
            num_workers=job.workers,
            prefetch_factor=AHEAD,
            persistent_workers=True,
            multiprocessing_context="fork",
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, ids: list[int]) -> tuple[tuple[int, int], torch.Tensor]:
        slot, out = self._ring.take()
        self.normalize(map(self.job.read, ids), self.rows[ids], out, turbo)
        return slot, torch.tensor(ids)

    def epoch(self) -> Iterator[Delivered]:
        for slot, ids in self._loader:
            yield self._ring.delivered(slot, ids)


class AsTheSeed(Peer, Dataset[tuple[torch.Tensor, int]]):
    """The way of github AsteroidHunter/replicatingAlexNet, its training script.

    Kept from the seed: one file a sample, Pillow's decoder, the mean subtracted from the whole 256×256 picture and in
    planes, then crop, color, mirror, float32, a tensor a sample, torch's own collation, workers started anew for each
    epoch. Not kept: the generator that it seeds with a hash of the file name for each crop; its five workers.
    """

    note = "worker processes; planes"

    def __init__(self, job: Job, table: AugmentationTable) -> None:
        super().__init__(job, table)
        self._mean = torch.from_numpy(self.mean_image).permute(2, 0, 1)
        sizes: Any = {"batch_size": job.batch_size, "num_workers": job.workers}
        self._loader = DataLoader(self, shuffle=True, drop_last=True, multiprocessing_context="fork", **sizes)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        row = self.rows[index]
        top, left = int(row["crop_y"]), int(row["crop_x"])
        picture = torch.from_numpy(np.array(Image.open(self.job.files / f"{index:06d}.jpg"))).permute(2, 0, 1)
        crop = (picture - self._mean)[:, top : top + CROP, left : left + CROP]
        crop = crop + torch.from_numpy(row["rgb_offset"].copy()).reshape(3, 1, 1)
        if row["mirror"]:
            crop = torch.flip(crop, dims=(2,))
        return crop.to(torch.float32), index

    def epoch(self) -> Iterator[Delivered]:
        for images, ids in self._loader:
            yield Delivered(images=images, ids=ids)
