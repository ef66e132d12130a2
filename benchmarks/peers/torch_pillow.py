"""torch DataLoader + Pillow, the way the seed does it (github AsteroidHunter/replicatingAlexNet, its training script).

Kept from the seed: one file a sample, Pillow's decoder, the mean subtracted from the whole 256×256 picture and in
planes, then crop, color, mirror, float32, a tensor a sample, torch's own collation, workers started anew for each
epoch. Not kept: the generator that it seeds with a hash of the file name for each crop; its five workers.
"""

from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from benchmarks.peers.work import CROP, AugmentationTable, Delivered, Job, write_files


class _Photographs(Dataset[tuple[torch.Tensor, int]]):
    def __init__(self, job: Job, table: AugmentationTable) -> None:
        self._folder, self._rows = job.files, table.rows
        self._mean = torch.from_numpy(job.mean_image()).permute(2, 0, 1)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        row = self._rows[index]
        top, left = int(row["crop_y"]), int(row["crop_x"])
        picture = torch.from_numpy(np.array(Image.open(self._folder / f"{index:06d}.jpg"))).permute(2, 0, 1)
        crop = (picture - self._mean)[:, top : top + CROP, left : left + CROP]
        crop = crop + torch.from_numpy(row["rgb_offset"].copy()).reshape(3, 1, 1)
        if row["mirror"]:
            crop = torch.flip(crop, dims=(2,))
        return crop.to(torch.float32), index


class Peer:
    """The seed's Dataset and DataLoader."""

    note = "worker processes; planes"
    ahead = 0

    def __init__(self, job: Job, table: AugmentationTable) -> None:
        write_files(job.shards(), job.files)
        self._loader = DataLoader(
            _Photographs(job, table),
            batch_size=job.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=job.workers,
            multiprocessing_context="fork",
        )

    def epoch(self) -> Iterator[Delivered]:
        for images, ids in self._loader:
            yield Delivered(images=images, ids=ids)
