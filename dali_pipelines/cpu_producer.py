"""Specs → batches on the CPU, by threads that run compiled code: the route of every batch that is made on a CPU.

    planner thread   spec, addresses, buffer ─▶ threads: decode with libjpeg-turbo, crop, normalize ─▶ consumer

One call of a thread makes as many pictures of a batch as it can get; Python, and with it the GIL, is needed a few
times a batch, not a few times a picture.
"""

import ctypes
import logging
import os
import weakref
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from common import ceil_div
from dali_pipelines.augmentation import CROP, IMAGE
from dali_pipelines.config import BatchSpec, DataConfig, picture_error
from dali_pipelines.crops import NO_CODEC, Crops, find_codec, place_pictures, place_pixels, take_next
from dali_pipelines.libjpeg import DAMAGED, DECODED, decode_by_simplejpeg
from dali_pipelines.normalize import CropNormalize
from sharding import ShardSet, Statistics

logger = logging.getLogger(__name__)

PICTURES_PER_TASK = 4  # a thread that would make fewer pictures of a batch is not worth waking


class BufferPool:
    """Memory for batches of up to `images` crops. It comes back when the last tensor that refers to it is gone.

    A tensor made by `torch.from_numpy` keeps the array alive as long as its storage lives, which every view and slice
    of it shares. So the memory returns when the array that a batch was made from is collected. A consumer that keeps
    batches makes the pool grow; `spare` buffers are kept for the next batches, what returns beyond them is freed.

    Where there is a GPU each batch is pinned memory of PyTorch's own, which keeps the same promise towards the GPU: its
    allocator gives a freed block out again only when the events have passed that it recorded, while freeing, on each
    stream that a non-blocking copy used (`free` and `process_events` in ATen/core/CachingHostAllocator.h).
    """

    def __init__(self, images: int, dtype: torch.dtype, spare: int) -> None:
        self._shape, self._dtype, self._pinned = (images, CROP, CROP, 3), dtype, torch.cuda.is_available()
        self._free: deque[NDArray[np.generic]] = deque(maxlen=spare)

    def take(self, images: int) -> torch.Tensor:
        """Memory for `images` crops: [images, 3, 224, 224], channels-last, with what was in it before."""
        if self._pinned:
            return torch.empty(self._shape, dtype=self._dtype, pin_memory=True)[:images].permute(0, 3, 1, 2)
        try:
            memory = self._free.pop()
        except IndexError:
            memory = np.empty(self._shape, np.uint8 if self._dtype == torch.uint8 else np.float32)
        array = memory[:images]
        weakref.finalize(array, self._free.append, memory).atexit = False
        return torch.from_numpy(array).permute(0, 3, 1, 2)


@dataclass
class BatchJob:
    """One batch in the making. `mappings` keeps the shards mapped at `addresses`, whoever closes them.

    status: int64 [n], what became of each picture (`libjpeg.DECODED` …). taken: int64 [1], how many threads have taken.
    """

    spec: BatchSpec
    images: torch.Tensor
    crops: Crops
    addresses: NDArray[np.int64]
    sizes: NDArray[np.int64]
    mappings: object
    status: NDArray[np.int64]
    taken: NDArray[np.int64]
    tasks: list[Future[None]]

    def decode(self, number: int, pixels: NDArray[np.uint8]) -> tuple[int, str]:
        """`decode_by_simplejpeg` for one of the pictures."""
        return decode_by_simplejpeg(ctypes.string_at(int(self.addresses[number]), int(self.sizes[number])), pixels)


class CpuProducer:
    """Makes batches of up to `capacity` samples, on `config.threads` threads."""

    def __init__(self, shards: ShardSet, config: DataConfig, statistics: Statistics, capacity: int) -> None:
        self._shards, self._config = shards, config
        self._codec = NO_CODEC if shards.encoding == "raw" else find_codec()
        self._normalize = CropNormalize(statistics, config.recipe, config.normalize)
        dtype = torch.float32 if config.output == "float32" else torch.uint8
        self._buffers = BufferPool(capacity * config.views, dtype, spare=config.prefetch + 2)
        self.damaged: set[int] = set()

    def batches(self, specs: Generator[BatchSpec]) -> Generator[tuple[BatchSpec, torch.Tensor]]:
        """Each spec with its images, `prefetch` of them made or being made while the consumer is busy.

        Raises LoaderError for a picture that does not decode or is not 256×256, where its batch would have come.
        """
        process = os.getpid()
        planner = ThreadPoolExecutor(1, thread_name_prefix="planner")
        threads = ThreadPoolExecutor(self._config.threads, thread_name_prefix="decoder")
        try:
            pending = deque(planner.submit(self._begin, specs, threads) for _ in range(self._config.prefetch))
            while (job := pending.popleft().result()) is not None:
                for task in job.tasks:
                    task.result()
                self._check(job)
                pending.append(planner.submit(self._begin, specs, threads))
                yield job.spec, job.images
                del job
        finally:
            if os.getpid() == process:  # a forked child has inherited this generator, but none of the threads
                for pool in (planner, threads):
                    pool.shutdown(cancel_futures=True)
                specs.close()

    def _begin(self, specs: Iterator[BatchSpec], threads: ThreadPoolExecutor) -> BatchJob | None:
        """Set the threads to work on the next batch; None after the last one."""
        with torch.profiler.record_function("loader: plan"):
            spec = next(specs, None)
            if spec is None:
                return None
            mappings = self._shards.mappings()
            addresses, sizes = self._shards.addresses(spec.ids.numpy())
            images = self._buffers.take(len(spec.augmentation))
            crops = self._normalize.crops(spec.augmentation, images, self._config.views)
            status, taken = np.full(len(spec.ids), DECODED), np.zeros(1, np.int64)
            job = BatchJob(spec, images, crops, addresses, sizes, mappings, status, taken, tasks=[])
            for _ in range(min(self._config.threads, ceil_div(len(spec.ids), PICTURES_PER_TASK))):
                job.tasks.append(threads.submit(self._make, job))
            return job

    def _make(self, job: BatchJob) -> None:
        """Make pictures of a batch until none is left to take."""
        with torch.profiler.record_function("loader: decode"):
            if self._codec is None:
                self._by_simplejpeg(job)
            else:
                place_pictures(self._codec, job.addresses, job.sizes, job.crops, job.taken, job.status)

    def _by_simplejpeg(self, job: BatchJob) -> None:
        """The same where Pillow's libjpeg-turbo is not to be had."""
        pixels = np.empty((IMAGE, IMAGE, 3), np.uint8)
        while (number := take_next(job.taken)) < len(job.spec.ids):
            job.status[number], _ = job.decode(number, pixels)
            if job.status[number] in (DECODED, DAMAGED):
                place_pixels(np.full(number + 1, pixels.ctypes.data), IMAGE, job.crops, first=number)

    def _check(self, job: BatchJob) -> None:
        """Tell of each damaged picture once; raises LoaderError for the first that has no pixels."""
        for number in np.flatnonzero(job.status).tolist():
            sample, (_, fault) = int(job.spec.ids[number]), job.decode(number, np.empty((IMAGE, IMAGE, 3), np.uint8))
            if job.status[number] != DAMAGED:
                raise picture_error(self._shards, sample, fault)
            if sample not in self.damaged:
                self.damaged.add(sample)
                where = "{}/{}: sample {}".format(self._shards.path, *self._shards.locate(sample))
                logger.warning("%s is damaged: %s without loss; it is used as it decodes", where, fault)
