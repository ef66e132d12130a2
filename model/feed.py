"""Feed: a loader's batches in; what this rank computes with out.

A pair of ranks computes one network on the same samples. Each decodes half of them, as uint8, and both swap halves in
the main thread and on a group of their own, so that nothing can get between the messages of the network; then each
standardises the whole, by what the loader says of both halves: pixels are all that travels, and nothing comes back from
a GPU. So a pair decodes each sample once.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from model.exchange import part_size, swap_halves
from model.mesh import Mesh


@dataclass(frozen=True, kw_only=True)
class Samples:
    """This data rank's part of a global batch of `samples`, on the device; n may be 0.

    images: float32 [n, 3, 224, 224], standardised. labels, ids: int64 [n].
    """

    images: torch.Tensor
    labels: torch.Tensor
    ids: torch.Tensor
    samples: int
    wait_seconds: float


def decoding_place(mesh: Mesh) -> tuple[int, int]:
    """(data_rank, data_world) for this rank's loader: each rank of a pair takes half of the pair's part."""
    return mesh.data_rank * mesh.model_world + mesh.model_rank, mesh.data_world * mesh.model_world


class Feed:
    """Wraps a loader of this rank's `decoding_place`, of output uint8 on a pair, else float32."""

    def __init__(self, loader: Any, standardise: Callable[..., torch.Tensor], mesh: Mesh) -> None:
        self.loader, self.standardise, self.mesh = loader, standardise, mesh

    @property
    def steps_per_epoch(self) -> int:
        return int(self.loader.steps_per_epoch)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Samples]:
        """The batches of an epoch from `start_step` on; all ranks take the same number."""
        for batch in self.loader.epoch(epoch, start_step):
            images, labels, ids = self._swapped(batch) if self.mesh.exchange_group else _own(batch)
            device = self.mesh.device
            yield Samples(
                images=images,
                labels=labels.to(device, non_blocking=True),
                ids=ids.to(device, non_blocking=True),
                samples=batch.samples,
                wait_seconds=batch.wait_seconds,
            )

    def _swapped(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        mesh = self.mesh
        assert mesh.exchange_group is not None
        first, parts = 2 * mesh.data_rank, 2 * mesh.data_world
        sizes = (part_size(batch.samples, first, parts), part_size(batch.samples, first + 1, parts))
        rows_last = batch.images.permute(0, 2, 3, 1)  # channels-last memory: no copy
        (images,) = swap_halves([rows_last.to(mesh.device)], sizes, mesh.model_rank, mesh.exchange_group)
        ids, labels, drawn = self.loader.part(batch.epoch, batch.step, mesh.data_rank, mesh.data_world)
        return self.standardise(images.permute(0, 3, 1, 2), drawn), torch.from_numpy(labels), torch.from_numpy(ids)

    def close(self) -> None:
        self.loader.close()


def _own(batch: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return batch.images, batch.labels, batch.ids
