"""Training steps in a process of their own, on one batch again and again or on a loader's: what `step` and others time.

Enters: a `SteppingJob`. Leaves: an object whose `repeat()` measures so many steps of training's own network.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.measure import Repeat, timed
from dali_pipelines import DataConfig, Loader
from dali_pipelines.augmentation import RecipeName
from model import AlexNet, ModelConfig
from sharding import ShardSet
from training.config import TrainConfig
from training.memory import keep_freed_memory
from training.mesh import Mesh
from training.step import ParallelNetwork


@dataclass(frozen=True, kw_only=True)
class SteppingJob:
    """What one repeat does: `steps` training steps, or one epoch of `shards`, or the loader's part of it alone.

    norm: `ours`, `pytorch` or `none`. shards: where batches come from; None for one synthetic batch, the same again and
    again. network: False to take the batches and drop them. keep_memory: as train.py does; False for the C library's
    default. options: of `TrainConfig`.
    """

    recipe: RecipeName = "original"
    norm: str = "ours"
    width: float = 1.0
    batch: int = 128
    steps: int = 1
    shards: Path | None = None
    network: bool = True
    keep_memory: bool = True
    threads: int = 2
    options: dict[str, Any] = field(default_factory=dict)


class PyTorchNorm(nn.Module):
    """The response norm across channels as PyTorch ships it, tower by tower."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.alpha = 5 * scale

    def forward(self, x: Tensor) -> Tensor:
        towers = [F.local_response_norm(tower, 5, self.alpha, 0.75, 2.0) for tower in x.chunk(2, dim=1)]
        return torch.cat(towers, dim=1)


def replace_norms(net: AlexNet, norm: str) -> None:
    """Put other response norms, or none, into a network of the recipe `paper`, whose norms PyTorch has."""
    if norm == "none":
        net.norm1, net.norm2 = nn.Identity(), nn.Identity()
    if norm == "pytorch":
        net.norm1, net.norm2 = PyTorchNorm(net.recipe.norm_scale), PyTorchNorm(net.recipe.norm_scale)


class Stepping:
    """The network and the batches of a job, on the GPU where there is one."""

    def __init__(self, job: SteppingJob) -> None:
        torch.set_num_threads(job.threads)
        if job.keep_memory:
            keep_freed_memory()
        self._job = job
        self._device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
        shards = ShardSet.open(job.shards) if job.shards else None
        classes = len(shards.classes) if shards else 1000
        self._loader: Loader | None = None
        if shards is not None:
            settings = DataConfig(recipe=job.recipe, batch_size=job.batch, device=str(self._device))
            self._loader = Loader(shards, settings)
        else:
            images = 60 * torch.randn(job.batch, 3, 224, 224, generator=torch.Generator().manual_seed(0))
            numbers = torch.arange(job.batch)
            batch = (images.contiguous(memory_format=torch.channels_last), numbers % classes, numbers)
            self._batch = tuple(part.to(self._device) for part in batch)
        if job.network:
            config = TrainConfig(shards=Path(), run_dir=Path(), recipe=job.recipe, width=job.width, **job.options)
            model = ModelConfig(recipe=job.recipe, classes=classes, width=job.width)
            self._network = ParallelNetwork(model, config, Mesh(device=self._device))
            assert isinstance(self._network.net, AlexNet)
            replace_norms(self._network.net, job.norm)

    def repeat(self) -> Repeat:
        """Measures the job once; the loader's read-ahead begins after the clock."""
        return timed(self.work)

    def work(self) -> int:
        """The job once; returns the images that were done."""
        images = 0
        for step, (pixels, labels, ids) in enumerate(self._batches()):
            if self._job.network:
                self._network.step(pixels, labels, ids, step=step, samples=len(labels))
            images += len(labels)
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return images

    def _batches(self) -> Iterator[tuple[Tensor, ...]]:
        if self._loader is None:
            yield from [self._batch] * self._job.steps
            return
        for batch in self._loader.epoch(0):
            yield batch.images, batch.labels.to(self._device), batch.ids.to(self._device)
