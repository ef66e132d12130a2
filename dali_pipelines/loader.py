"""Shards → epochs of batches. `Loader` has no state: its place is (epoch, step).

Enters: a `ShardSet`, a `DataConfig`, this rank's place on the data axis. Leaves: `Batch`es.

    EpochOrder ─▶ BatchSpec (ids, labels, augmentation) ─▶ CpuProducer, or GraphProducer on a GPU ─▶ Batch
"""

import functools
import os
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace

import numpy as np
import torch

from common import ceil_div
from dali_pipelines.augmentation import Augmentation, draw, fixed_views
from dali_pipelines.config import Batch, BatchSpec, DataConfig, LoaderError, to_tensor
from dali_pipelines.cpu_producer import CpuProducer
from dali_pipelines.graph import GraphProducer
from dali_pipelines.keyed import Integers
from dali_pipelines.order import EpochOrder, ReadAhead, slice_range
from sharding import ShardSet, Statistics


class Loader:
    """Batches of one split for one rank: `for batch in loader.epoch(e): …`, or one epoch after another by `iter`.

    data_rank, data_world: this rank's place on the data axis; by default those of torch.distributed, where that runs.

    Raises ValueError for a place outside the data axis, LoaderError for a training split smaller than a batch or a
    GPU that is not there, ShardError for a table that does not fit its shards or where statistics are missing. An epoch
    raises LoaderError for a picture that does not decode, ShardError for what else is damaged in a shard.
    """

    def __init__(
        self,
        shards: ShardSet,
        config: DataConfig,
        data_rank: int | None = None,
        data_world: int | None = None,
        statistics: Statistics | None = None,
    ) -> None:
        if data_rank is None or data_world is None:
            joined = torch.distributed.is_available() and torch.distributed.is_initialized()
            data_rank = torch.distributed.get_rank() if joined else 0
            data_world = torch.distributed.get_world_size() if joined else 1
        if not 0 <= data_rank < data_world:
            raise ValueError(f"data_rank {data_rank} of {data_world}: expected 0 to {data_world - 1}")
        if config.training and len(shards) < config.batch_size:
            raise LoaderError(
                f"{shards.path}: {len(shards)} samples make no batch of {config.batch_size}; "
                f"ask for --batch-size {len(shards)} or less"
            )
        threads = config.threads or len(os.sched_getaffinity(0))
        self.config = replace(config, threads=threads, device=present_device(config.device))
        self.shards = shards
        self.data_rank, self.data_world = data_rank, data_world
        self.statistics = shards.statistics if statistics is None else statistics
        self._order = functools.lru_cache(2)(
            lambda epoch: EpochOrder(shards.shard_sizes, config.seed, epoch, config.window)
        )
        self._process: int | None = None
        self._next = self._done = (0, 0)  # (epoch, step) where iter() begins, and up to which it has delivered
        capacity = ceil_div(config.batch_size, data_world)  # the most samples that this rank decodes of a batch
        producer = GraphProducer if self.config.is_cuda or not config.fused else CpuProducer
        made = producer(shards, self.config, self.statistics, capacity)
        self._producer: CpuProducer | GraphProducer | None = made
        self._damaged = made.damaged

    @property
    def steps_per_epoch(self) -> int:
        """Global batches of an epoch, the same on every rank."""
        samples, batch_size = len(self.shards), self.config.batch_size
        return samples // batch_size if self.config.training else ceil_div(samples, batch_size)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches of `epoch` (from 0) from `start_step` on; nothing before it is read or decoded."""
        if self._producer is None:
            raise LoaderError(f"{self.shards.path}: this loader is closed; make another one")
        if not 0 <= start_step <= self.steps_per_epoch:
            raise ValueError(f"start_step {start_step}: expected 0 to {self.steps_per_epoch}")
        self._check_process()
        return self._delivered(self._producer.batches(self._specs(epoch, start_step)))

    def __len__(self) -> int:
        """`steps_per_epoch`."""
        return self.steps_per_epoch

    def __iter__(self) -> Iterator[Batch]:
        """The batches of the epoch set by `set_epoch`, or of what `load_state_dict` tells; then of the epoch after."""
        (epoch, step), self._next = self._next, (self._next[0] + 1, 0)
        self._done = (epoch, step)
        for batch in self.epoch(epoch, step):
            self._done = (epoch, batch.step + 1)
            yield batch
        self._done = (epoch + 1, 0)

    def set_epoch(self, epoch: int) -> None:
        """Let the next `iter` go through `epoch` (from 0), from its first step on."""
        self._next = self._done = (epoch, 0)

    def state_dict(self) -> dict[str, int | None]:
        """What `load_state_dict` needs to go on behind the batch that `iter` delivered last, on any number of ranks."""
        (epoch, step), config = self._done, self.config
        order = {"seed": config.seed, "batch_size": config.batch_size, "window": config.window}
        return {"epoch": epoch, "step": step} | order

    def load_state_dict(self, state: dict[str, int | None]) -> None:
        """Let the next `iter` go on from `state`. Raises ValueError for the state of a loader with another order."""
        expected = self.state_dict() | {"epoch": state.get("epoch"), "step": state.get("step")}
        if state != expected or not isinstance(state["epoch"], int) or not isinstance(state["step"], int):
            raise ValueError(f"state {state} is not of this loader, whose states are like {self.state_dict()}")
        self._next = self._done = (state["epoch"], state["step"])

    @property
    def damaged_images(self) -> int:
        """How many images libjpeg-turbo has called damaged so far: each was used as it decoded, and logged once.

        Counted where the CPU decodes; on a GPU, and in DALI's graph on the CPU, DALI writes to stderr what it finds.
        """
        return len(self._damaged)

    def slice_metadata(self, epoch: int, step: int, rank: int, world: int) -> BatchSpec:
        """Part `rank` of `world` of a global batch; decodes nothing. Raises ValueError for a step outside the epoch."""
        if not 0 <= step < self.steps_per_epoch:
            raise ValueError(f"step {step}: expected 0 to {self.steps_per_epoch - 1}")
        return self._spec(epoch, step, rank, world)

    def close(self) -> None:
        """Let go of DALI's threads and of the buffers; the shards stay open."""
        self._producer = None  # an epoch that is under way keeps it

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _delivered(self, made: Generator[tuple[BatchSpec, torch.Tensor]]) -> Iterator[Batch]:
        asked = time.perf_counter()
        with closing(made):
            for spec, images in made:
                yield Batch(images=images, wait_seconds=time.perf_counter() - asked, **vars(spec))
                self._check_process()
                asked = time.perf_counter()

    def _check_process(self) -> None:
        """Threads do not follow into a forked child: raises LoaderError there, where waiting for them would hang."""
        if self._process not in (None, os.getpid()):
            raise LoaderError(
                f"{self.shards.path}: this loader was used in process {self._process} and cannot go on in its fork "
                f"{os.getpid()}; make the Loader in the child (in a DataLoader: in the worker, not before it starts)"
            )
        self._process = os.getpid()

    def _specs(self, epoch: int, start_step: int) -> Generator[BatchSpec]:
        """What to make for each step, in order; shards are asked to read ahead."""
        config, shards, place = self.config, len(self.shards.shard_names), (self.data_rank, self.data_world)
        groups = self._order(epoch).shard_groups() if config.training else [[shard] for shard in range(shards)]
        with closing(ReadAhead(self.shards, groups)) as reading:
            spec = self._spec(epoch, start_step, *place)
            for step in range(start_step, self.steps_per_epoch):
                upcoming = self._spec(epoch, step + 1, *place)
                reading.reach(step * config.batch_size, spec.ids.numpy(), upcoming.ids.numpy())
                yield spec
                spec = upcoming

    def _spec(self, epoch: int, step: int, rank: int, world: int) -> BatchSpec:
        """One rank's part of a global batch; of no samples behind the last step."""
        size = self.config.batch_size
        samples = min(size, len(self.shards) - step * size) if step < self.steps_per_epoch else 0
        part = slice_range(samples, rank, world)
        positions = step * size + np.arange(part.start, part.stop)
        ids = self._order(epoch)[positions] if self.config.training else positions.copy()
        return BatchSpec(
            epoch=epoch,
            step=step,
            labels=to_tensor(self.shards.labels(ids)),
            ids=to_tensor(ids),
            positions=torch.from_numpy(positions),
            augmentation=self._augmentation(epoch, ids, positions),
            samples=samples,
        )

    def _augmentation(self, epoch: int, ids: Integers, positions: Integers) -> Augmentation:
        config = self.config
        if not (config.training and config.augment):
            return fixed_views(len(ids), config.views)
        noise = self.statistics if config.has_noise(epoch) else None
        choice = draw(config.recipe, config.seed, epoch, ids, positions, noise)
        choice = choice if config.random_crops else choice.centered()
        return choice if config.normalize == "recipe" else replace(choice, divisor=1.0)


def present_device(device: str) -> str:
    """`device` with its number; raises LoaderError for a GPU that is not there."""
    if device == "cpu":
        return device
    number, count = device.partition(":")[2], torch.cuda.device_count()
    if int(number or 0) >= count:
        raise LoaderError(f"device {device}: this machine has {count} CUDA devices; ask for --device cpu")
    return f"cuda:{number or torch.cuda.current_device()}"
