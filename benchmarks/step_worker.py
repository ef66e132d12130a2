"""One process of the step benchmark: training steps on synthetic or loaded batches, as often as its parent asks.

Enters: a `Job`, and over a pipe the word to do a repeat. Leaves: a `Repeat` for each, over the same pipe.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.measure import timed
from dali_pipelines import DataConfig, Loader
from dali_pipelines.augmentation import RecipeName
from model import AlexNet, DropoutKey, ModelConfig, TwoTowerAlexNet, make_optimizer
from model.response_norm import SPATIAL_SCALE
from sharding import ShardSet
from training.memory import keep_freed_memory

Batches = Iterator[tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a process does in one repeat: `steps` training steps, or one epoch of `shards`, or both together.

    norm: `ours`, `pytorch` or `none`. shards: where batches come from; None for one synthetic batch, the same again and
    again. network: False to take the batches and drop them. meeting: the file at which the two ranks of a split
    network find each other; rank is this one's. keep_memory: as train.py does; False for the C library's default.
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
    rank: int = 0
    meeting: Path | None = None


class PyTorchNorm(nn.Module):
    """The response norm across channels as PyTorch ships it, tower by tower."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.alpha = 5 * scale

    def forward(self, x: Tensor) -> Tensor:
        parts = [F.local_response_norm(part, 5, self.alpha, 0.75, 2.0) for part in x.chunk(2, dim=1)]
        return torch.cat(parts, dim=1)


class PyTorchSpatialNorm(nn.Module):
    """The original's spatial response norm in PyTorch's operations; PyTorch ships none."""

    def forward(self, x: Tensor) -> Tensor:
        means = F.avg_pool2d(x.square(), 5, stride=1, padding=2)
        return x / (1 + 25 * SPATIAL_SCALE * means).pow(0.75)


def replace_norms(net: AlexNet, norm: str) -> None:
    """Put other response norms, or none, into a network."""
    if norm == "none":
        net.norm1, net.norm2 = nn.Identity(), nn.Identity()
    if norm == "pytorch":
        spatial = [PyTorchSpatialNorm()] if net.recipe.spatial_norm else []
        scale = net.recipe.norm_scale
        net.norm1, net.norm2 = PyTorchNorm(scale), nn.Sequential(PyTorchNorm(scale), *spatial)


def device_of(rank: int) -> torch.device:
    """The GPU of this rank where there is one, else the CPU."""
    return torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")


def make_step(job: Job, classes: int) -> Callable[[Tensor, Tensor, Tensor], None]:
    """A training step on images, labels and ids: forward, backward, update."""
    config, device = ModelConfig(recipe=job.recipe, classes=classes, width=job.width), device_of(job.rank)
    net: AlexNet | TwoTowerAlexNet
    if job.meeting is None:
        net = AlexNet(config)
        replace_norms(net, job.norm)
    else:
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, init_method=f"file://{job.meeting}", rank=job.rank, world_size=2)
        assert dist.group.WORLD is not None
        net = TwoTowerAlexNet(config, dist.group.WORLD)
    net.to(device)
    optimizer = make_optimizer(net, job.recipe)

    def step(images: Tensor, labels: Tensor, ids: Tensor) -> None:
        optimizer.zero_grad()
        logits = net(images, DropoutKey(0, 0, ids.to(device)))
        F.cross_entropy(logits, labels.to(device)).backward()
        optimizer.step()

    return step


def synthetic(job: Job, classes: int) -> Callable[[], Batches]:
    """The same random batch, `steps` times in a repeat."""
    images = 60 * torch.randn(job.batch, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    images = images.contiguous(memory_format=torch.channels_last).to(device_of(job.rank))
    labels, ids = torch.arange(job.batch) % classes, torch.arange(job.batch)
    return lambda: iter([(images, labels, ids)] * job.steps)


def loaded(job: Job, shards: ShardSet) -> Callable[[], Batches]:
    """An epoch from the loader in each repeat, read-ahead included: nothing is made before the clock starts."""
    settings = DataConfig(recipe=job.recipe, batch_size=job.batch, device=str(device_of(job.rank)))
    loader = Loader(shards, settings)
    return lambda: ((batch.images, batch.labels, batch.ids) for batch in loader.epoch(0))


def serve(job: Job, connection: Connection) -> None:
    """Do a repeat for every True that comes; False ends the process."""
    torch.set_num_threads(job.threads)
    if job.keep_memory:
        keep_freed_memory()
    shards = ShardSet.open(job.shards) if job.shards else None
    classes = len(shards.classes) if shards else 1000
    batches = loaded(job, shards) if shards else synthetic(job, classes)
    step = make_step(job, classes) if job.network else None

    def work() -> int:
        images = 0
        for batch in batches():
            if step is not None:
                step(*batch)
            images += len(batch[1])
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return images

    connection.send(None)
    while connection.recv():
        connection.send(timed(work))
    if job.meeting is not None:
        dist.destroy_process_group()
