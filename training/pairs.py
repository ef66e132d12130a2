"""Batches for a rank: what its loader decoded in; the images, labels and ids that it computes with out.

A pair of ranks computes one network on the same samples. Each decodes half of them, as uint8, and both exchange their
halves in the main thread, on a group of their own, so that nothing can get between the messages of the network. Then
each normalizes all of them, by what the loader says of both halves: pixels are all that travels. So a pair decodes
each sample once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
import torch.distributed as dist

from dali_pipelines import Batch, Loader, Normalize
from dali_pipelines.order import slice_range
from training.mesh import Mesh


def decoding_coordinates(mesh: Mesh) -> tuple[int, int]:
    """(data_rank, data_world) for this rank's loader: each rank of a pair takes half of the pair's slice."""
    return mesh.data_rank * mesh.model_world + mesh.model_rank, mesh.data_world * mesh.model_world


def gather_pair_images(images: torch.Tensor, sizes: Sequence[int], mesh: Mesh) -> torch.Tensor:
    """The images that both ranks of a pair decoded, rank 0's first: uint8 [n, 3, 224, 224] → [sum(sizes), 3, 224, 224].

    Channels-last memory on the mesh's device, in and out; n = sizes[model_rank]. Raises ValueError for another n.
    """
    rows = sizes[mesh.model_rank]
    if len(images) != rows:
        raise ValueError(f"rank {mesh.model_rank} of a pair should hold {rows} of {sum(sizes)} samples: {len(images)}")
    pixels = images.permute(0, 2, 3, 1)  # contiguous: no copy
    message = torch.zeros(max(sizes), *pixels.shape[1:], dtype=torch.uint8, device=images.device)
    message[:rows].copy_(pixels)
    both = [torch.empty_like(message) for _ in sizes]
    dist.all_gather(both, message, group=mesh.exchange_group)
    return torch.cat([part[:size] for part, size in zip(both, sizes)]).permute(0, 3, 1, 2)


class PairedLoader:
    """Wraps a loader of this rank's `decoding_coordinates`.

    It delivers uint8 for a pair, and where the CPU decodes for a GPU: normalized here, on the device; else float32.
    """

    def __init__(self, loader: Loader, normalize: Normalize, mesh: Mesh) -> None:
        self.loader, self.normalize, self.mesh = loader, normalize, mesh
        self.steps_per_epoch, self.close = loader.steps_per_epoch, loader.close

    @property
    def damaged_images(self) -> int:
        """`Loader.damaged_images` of this rank."""
        return self.loader.damaged_images

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from `start_step` on; all ranks take the same number.

        Of each, images (float32, normalized), labels and ids are this data rank's slice of the global batch, on the
        device; n may be 0. Positions and augmentation stay those of what this rank decoded.
        Nothing here waits for a GPU: what comes from the CPU is pinned, and its copies are queued like kernels.
        """
        mesh = self.mesh
        for batch in self.loader.epoch(epoch, start_step):
            images, augmentation = batch.images.to(mesh.device, non_blocking=True), batch.augmentation
            labels, ids = batch.labels, batch.ids
            if mesh.exchange_group is not None:
                halves = [slice_range(batch.samples, 2 * mesh.data_rank + half, 2 * mesh.data_world) for half in (0, 1)]
                images = gather_pair_images(images, [half.stop - half.start for half in halves], mesh)
                arrays = self.loader.slice_metadata(batch.epoch, batch.step, mesh.data_rank, mesh.data_world)
                ids, labels, augmentation = torch.from_numpy(arrays[0]), torch.from_numpy(arrays[1]), arrays[2]
            if images.dtype == torch.uint8:
                images = self.normalize(images, augmentation)
            yield replace(batch, images=images, labels=self._on_device(labels), ids=self._on_device(ids))

    def _on_device(self, numbers: torch.Tensor) -> torch.Tensor:
        device = self.mesh.device
        if device.type == "cuda" and numbers.device.type == "cpu" and not numbers.is_pinned():
            numbers = numbers.pin_memory()
        return numbers.to(device, non_blocking=True)
