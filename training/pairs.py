"""Batches for a rank: what its loader decoded in; the images, labels and ids that it computes with out.

A pair of ranks computes one network on the same samples. Each decodes half of them, as uint8, and both exchange their
halves in the main thread, on a group of their own, so that nothing can get between the messages of the network. Then
each normalizes all of them, by what the loader says of both halves: pixels are all that travels. So a pair decodes
each sample once.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from dali_pipelines import Batch, Loader, Normalize
from dali_pipelines.order import slice_range
from training.collectives import gather_pair_images
from training.mesh import Mesh


@dataclass(frozen=True, kw_only=True)
class DeviceBatch:
    """This data rank's slice of a global batch of `samples`, on the device; n may be 0.

    images: float32 [n, 3, 224, 224], normalized. labels, ids: int64 [n].
    """

    images: torch.Tensor
    labels: torch.Tensor
    ids: torch.Tensor
    samples: int
    wait_seconds: float


def decoding_coordinates(mesh: Mesh) -> tuple[int, int]:
    """(data_rank, data_world) for this rank's loader: each rank of a pair takes half of the pair's slice."""
    return mesh.data_rank * mesh.model_world + mesh.model_rank, mesh.data_world * mesh.model_world


class PairedLoader:
    """Wraps a loader of this rank's `decoding_coordinates`, of output uint8 on a pair, else float32."""

    def __init__(self, loader: Loader, normalize: Normalize, mesh: Mesh) -> None:
        self.loader, self.normalize, self.mesh = loader, normalize, mesh

    @property
    def steps_per_epoch(self) -> int:
        """Global batches of an epoch, the same on every rank."""
        return self.loader.steps_per_epoch

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[DeviceBatch]:
        """The batches of an epoch from `start_step` on; all ranks take the same number."""
        device = self.mesh.device
        for batch in self.loader.epoch(epoch, start_step):
            images, labels, ids = batch.images, batch.labels, batch.ids
            if self.mesh.exchange_group is not None:
                images, labels, ids = self._both_halves(batch)
            yield DeviceBatch(
                images=images,
                labels=labels.to(device, non_blocking=True),
                ids=ids.to(device, non_blocking=True),
                samples=batch.samples,
                wait_seconds=batch.wait_seconds,
            )

    def _both_halves(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        mesh = self.mesh
        halves = [slice_range(batch.samples, 2 * mesh.data_rank + half, 2 * mesh.data_world) for half in (0, 1)]
        sizes = (halves[0].stop - halves[0].start, halves[1].stop - halves[1].start)
        images = gather_pair_images(batch.images.to(mesh.device), sizes, mesh)
        ids, labels, augmentation = self.loader.slice_metadata(batch.epoch, batch.step, mesh.data_rank, mesh.data_world)
        return self.normalize(images, augmentation), torch.from_numpy(labels), torch.from_numpy(ids)

    def close(self) -> None:
        """Let go of the loader's threads and buffers."""
        self.loader.close()
