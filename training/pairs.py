"""Batches for a rank: what its loader decoded in; the images, labels and ids that it computes with out.

A pair of ranks computes one network on the same samples. Each decodes half of them, as uint8, and both exchange their
halves in the main thread, on a group of their own, so that nothing can get between the messages of the network. Then
each normalizes all of them, by what the loader says of both halves: pixels are all that travels. So a pair decodes
each sample once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F

from dali_pipelines import Batch, Loader, Normalize
from dali_pipelines.config import BatchSpec
from dali_pipelines.order import slice_range
from model.two_tower import exchange_activations
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
    assert mesh.exchange_group is not None
    message = F.pad(images, (0, 0, 0, 0, 0, 0, 0, max(sizes) - rows))
    parts = [images, exchange_activations(message, mesh.exchange_group)[: sum(sizes) - rows]]
    gathered = torch.cat(parts if mesh.model_rank == 0 else parts[::-1])
    return gathered.contiguous(memory_format=torch.channels_last)  # as it is, unless one rank has none


class PairedLoader:
    """Wraps a loader of `decoding_coordinates`; what it delivers as uint8 is normalized here, on the mesh's device."""

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
            images = batch.images.to(mesh.device, non_blocking=True)
            computed: BatchSpec = batch
            if mesh.exchange_group is not None:
                halves = [slice_range(batch.samples, 2 * mesh.data_rank + half, 2 * mesh.data_world) for half in (0, 1)]
                images = gather_pair_images(images, [half.stop - half.start for half in halves], mesh)
                computed = self.loader.slice_metadata(batch.epoch, batch.step, mesh.data_rank, mesh.data_world)
            if images.dtype == torch.uint8:
                images = self.normalize(images, computed.augmentation)
            labels, ids = (numbers.to(mesh.device, non_blocking=True) for numbers in (computed.labels, computed.ids))
            yield replace(batch, images=images, labels=labels, ids=ids)
