"""Plans → images: the whole DALI graph, or its front with the compiled tail where that is faster."""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import cycle
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from common import ceil_div
from dali_pipelines.augmentation import CROP, IMAGE
from dali_pipelines.config import DataConfig, LoaderError
from dali_pipelines.graph import batch_graph, cropped_graph, fed_choices
from dali_pipelines.normalize import CropNormalize, Decoded
from dali_pipelines.order import slice_range
from dali_pipelines.pipeline_runner import BatchSpec, PipelineRunner
from sharding import ShardSet, Statistics

Item = TypeVar("Item")
_END = object()
Made = tuple[BatchSpec, torch.Tensor]
DECODERS_PER_TAIL = 6  # decoding a picture takes about 7 times as long as the compiled pass over it


class Producer(Protocol):
    """Makes the images of plans, in their order."""

    def batches(self, specs: Iterator[BatchSpec]) -> Generator[Made]:
        """Each plan with its images [n·views, 3, 224, 224], valid until the next is asked for."""

    def close(self) -> None:
        """Let go of threads and buffers that wait for another epoch."""


def make_producer(shards: ShardSet, config: DataConfig, statistics: Statistics, capacity: int) -> Producer:
    """The producer for this device and encoding, for plans of up to `capacity` samples."""
    if config.is_cuda or not config.fused:
        return GraphProducer(shards, config, statistics, capacity)
    return FusedProducer(shards, config, statistics, capacity)


class PipelinePool:
    """Built pipelines that wait for another epoch (several, if epochs run side by side)."""

    def __init__(self, build: Callable[[], PipelineRunner]) -> None:
        self._build = build
        self._waiting: list[PipelineRunner] = []
        self.closed = False

    def outputs(self, specs: Iterator[BatchSpec], stream: object = None) -> Iterator[tuple[BatchSpec, object]]:
        """The outputs of a pipeline that is taken for this epoch, and put back unless it failed."""
        run = self._waiting.pop() if self._waiting else self._build()
        try:
            yield from run.outputs(specs, stream)
        except GeneratorExit:
            if run.drain():
                self._put_back(run)
            raise
        self._put_back(run)

    def _put_back(self, run: PipelineRunner) -> None:
        if not self.closed:
            self._waiting.append(run)

    def close(self) -> None:
        self.closed = True
        self._waiting.clear()


class GraphProducer:
    """The whole graph, on the CPU or on a GPU; DALI's outputs as tensors, without a copy."""

    def __init__(self, shards: ShardSet, config: DataConfig, statistics: Statistics, capacity: int) -> None:
        self._config = config

        def build() -> PipelineRunner:
            return PipelineRunner(
                shards,
                fed_choices(config, whole_graph=True),
                lambda source: batch_graph(config, statistics.mean_image, shards.encoding, source, capacity),
            )

        self._idle = PipelinePool(build)

    def batches(self, specs: Iterator[BatchSpec]) -> Generator[Made]:
        """See `Producer`. On a GPU, where DALI alone runs ahead, the tensors are bound to the current stream."""
        config = self._config
        if config.is_cuda:
            return self._made(specs, torch.cuda.current_stream(config.device))
        return prefetched(self._made(specs), config.prefetch)

    def _made(self, specs: Iterator[BatchSpec], stream: torch.cuda.Stream | None = None) -> Generator[Made]:
        config = self._config
        dtype = torch.float32 if config.output == "float32" else torch.uint8
        for spec, output in self._idle.outputs(specs, stream):
            if output is None:
                images = torch.empty((0, CROP, CROP, 3), dtype=dtype, device=config.device)
            else:
                images = torch.from_dlpack(output.as_tensor()).reshape(-1, CROP, CROP, 3)  # type: ignore[attr-defined]
            yield spec, images.permute(0, 3, 1, 2)

    def close(self) -> None:
        """See `Producer`."""
        self._idle.close()


class FusedProducer:
    """DALI's decoder that crops (or, for raw shards, no decoder at all), then one compiled pass over the pixels."""

    def __init__(self, shards: ShardSet, config: DataConfig, statistics: Statistics, capacity: int) -> None:
        self._shards = shards
        self._config, self._capacity, self._raw = config, capacity, shards.encoding == "raw"
        self._tail = CropNormalize(statistics, config.recipe)
        self._tails = ceil_div(config.threads, DECODERS_PER_TAIL)
        self._rings: list[list[torch.Tensor]] = []

        def build() -> PipelineRunner:
            choices = fed_choices(config, whole_graph=False)
            return PipelineRunner(shards, choices, lambda source: cropped_graph(config, source, capacity))

        self._idle = PipelinePool(build)

    def batches(self, specs: Iterator[BatchSpec]) -> Generator[Made]:
        """See `Producer`; the images lie in `prefetch` + 1 buffers, used in turn and kept for the next epoch.

        A consumer that stops early may go on holding its last batch: those buffers are not used again.
        """
        depth = self._config.prefetch
        ring = self._rings.pop() if self._rings else [self._buffer() for _ in range(depth + 1)]
        yield from prefetched(self._made(specs, cycle(ring)), depth)
        if not self._idle.closed:
            self._rings.append(ring)

    def _made(self, specs: Iterator[BatchSpec], buffers: Iterator[torch.Tensor]) -> Generator[Made]:
        decoded = self._stored(specs) if self._raw else self._decoded(specs)
        with ThreadPoolExecutor(self._tails, thread_name_prefix="tail") as workers:
            for spec, pictures in decoded:
                images = next(buffers)[: len(spec.augmentation)]
                parts = [slice_range(len(images), tail, self._tails) for tail in range(self._tails)]
                if len(parts) == 1:
                    self._fill(spec, pictures, images, parts[0])
                else:
                    list(workers.map(partial(self._fill, spec, pictures, images), parts))
                yield spec, images

    def _fill(self, spec: BatchSpec, pictures: Decoded, images: torch.Tensor, part: slice) -> None:
        self._tail.fill(images[part], pictures.part(part), spec.augmentation.part(part))

    def close(self) -> None:
        """See `Producer`."""
        self._idle.close()
        self._rings.clear()

    def _buffer(self) -> torch.Tensor:
        dtype = torch.float32 if self._config.output == "float32" else torch.uint8
        shape = (self._capacity * self._config.views, CROP, CROP, 3)
        return torch.empty(shape, dtype=dtype, pin_memory=torch.cuda.is_available()).permute(0, 3, 1, 2)

    def _decoded(self, specs: Iterator[BatchSpec]) -> Iterator[tuple[BatchSpec, Decoded]]:
        """What DALI decoded: 224×224 where its decoder cropped, 256×256 for ten views."""
        for spec, output in self._idle.outputs(specs):
            if output is None:
                yield spec, self._crops_in(spec, np.zeros(0, np.int64), IMAGE)
            else:
                self._check_shapes(spec, output.shape())  # type: ignore[attr-defined]
                pixels = np.asarray(output.as_tensor())  # type: ignore[attr-defined]
                addresses = pixels.ctypes.data + np.arange(len(spec)) * pixels.strides[0]
                yield spec, self._crops_in(spec, addresses, pixels.shape[2])

    def _check_shapes(self, spec: BatchSpec, shapes: list[tuple[int, ...]]) -> None:
        """The compiled pass reads memory by these sizes: nothing else may come near it."""
        side = CROP if self._config.views == 1 else IMAGE
        for sample, shape in zip(spec.ids, shapes):
            if shape != (side, side, 3):
                shard, key = self._shards.locate(int(sample))
                raise LoaderError(
                    f"{self._shards.path}/{shard}: sample {key} decodes to {shape}, expected {(side, side, 3)}; "
                    f"check the set with: python -m sharding verify {self._shards.path}"
                )

    def _stored(self, specs: Iterator[BatchSpec]) -> Iterator[tuple[BatchSpec, Decoded]]:
        """The pixels in the mapped shards, as they lie there."""
        for spec in specs:
            addresses = [image.__array_interface__["data"][0] for image in spec.images]
            yield spec, self._crops_in(spec, np.asarray(addresses, np.int64), IMAGE)

    def _crops_in(self, spec: BatchSpec, addresses: NDArray[np.int64], width: int) -> Decoded:
        """The plan's views in pictures at `addresses`; a picture that is already cropped is a view as it is."""
        choice = spec.augmentation
        addresses = np.repeat(addresses, self._config.views)
        if width == CROP:
            return Decoded(addresses, width, np.zeros_like(choice.crop_y), np.zeros_like(choice.crop_x), choice.mirror)
        return Decoded(addresses, width, choice.crop_y, choice.crop_x, choice.mirror)


def prefetched(items: Generator[Item], depth: int) -> Generator[Item]:
    """`items`, with up to `depth` of them made or being made while the consumer is busy.

    An error in `items` comes out where its item would have. However the iteration ends (at the end, by an error,
    or because the consumer stopped), the thread has ended and `items` is closed when it is over.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as worker:
        pending: deque[Future[object]] = deque(worker.submit(next, items, _END) for _ in range(depth))
        try:
            while (item := pending.popleft().result()) is not _END:
                pending.append(worker.submit(next, items, _END))
                yield item  # type: ignore[misc]
        finally:
            for future in pending:
                future.cancel()
            worker.submit(items.close).result()
