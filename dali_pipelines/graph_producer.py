"""Specs → batches by the whole DALI graph: the route of a GPU, and on the CPU the reference for `CpuProducer`."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from nvidia.dali.pipeline import Pipeline

from dali_pipelines.augmentation import CROP, IMAGE
from dali_pipelines.batch import BatchSpec
from dali_pipelines.config import DataConfig, LoaderError
from dali_pipelines.graph import Source, batch_graph, fed_choices
from dali_pipelines.libjpeg import DECODED, decode_by_simplejpeg, fault_of
from dali_pipelines.normalize import mean_and_deviation
from sharding import ShardSet, Statistics

FREE = np.float32(IMAGE - CROP)  # what a crop leaves free each way


def graph_inputs(
    spec: BatchSpec, images: list[NDArray[np.uint8]], choices: int, deviation: NDArray[np.float64]
) -> tuple[Any, ...]:
    """What a graph is fed: the images and the first `choices` arrays of choices (see `graph.fed_choices`)."""
    choice = spec.augmentation
    offset = choice.rgb_offset
    arrays = (
        np.float32(choice.crop_y) / FREE,
        np.float32(choice.crop_x) / FREE,
        choice.mirror.astype(np.int32),
        -offset,
        np.broadcast_to(np.float32(choice.divisor * deviation), offset.shape).copy(),
    )
    return images, *arrays[:choices]


class GraphSource:
    """The callback that DALI asks for its next batch; keeps what DALI refers to until the batch is delivered."""

    def __init__(self, shards: ShardSet, choices: int, deviation: NDArray[np.float64]) -> None:
        self._shards, self._choices, self._deviation = shards, choices, deviation
        self.specs: Iterator[BatchSpec] = iter(())
        self.taken: deque[tuple[BatchSpec, tuple[Any, ...]]] = deque()

    def __call__(self) -> tuple[Any, ...]:
        for spec in self.specs:
            inputs: tuple[Any, ...] = ()
            if len(spec):
                inputs = graph_inputs(spec, self._shards.images(spec.ids), self._choices, self._deviation)
            self.taken.append((spec, inputs))
            if len(spec):
                return inputs
        raise StopIteration


class PipelineRunner:
    """A pipeline that can be run over one epoch after another."""

    def __init__(
        self, shards: ShardSet, choices: int, deviation: NDArray[np.float64], graph: Callable[[Source], Pipeline]
    ) -> None:
        self._shards = shards
        self._source = GraphSource(shards, choices, deviation)
        self._pipeline = graph(self._source)
        self._pipeline.build()

    def outputs(self, specs: Iterator[BatchSpec], stream: Any = None) -> Iterator[tuple[BatchSpec, Any]]:
        """Each spec with DALI's output for it (None where the spec is empty), in order.

        Raises LoaderError for an image that cannot be decoded; the pipeline is then unusable.
        """
        source = self._source
        source.specs = specs
        # a GPU may still be reading what a delivered batch was made from
        delivered: deque[tuple[BatchSpec, tuple[Any, ...]]] = deque(maxlen=self._pipeline.prefetch_queue_depth + 1)
        try:
            while (output := self._run(stream)) is not None:
                while not len(source.taken[0][0]):
                    yield source.taken.popleft()[0], None
                delivered.append(source.taken.popleft())
                yield delivered[-1][0], output
            while source.taken:
                yield source.taken.popleft()[0], None
        finally:
            source.specs = iter(())

    def _run(self, stream: Any) -> Any:
        """The next batch's output; None at the end of the epoch, after which the pipeline can run again."""
        try:
            return self._pipeline.run(stream)[0]
        except StopIteration:
            self._pipeline.reset()
            return None
        except RuntimeError as error:
            raise self._explained(error) from error

    def _explained(self, error: RuntimeError) -> LoaderError:
        """The error with the shard and key of the first image, of those in the pipeline, that does not decode."""
        for spec, inputs in self._source.taken:
            for sample, image in zip(
                spec.ids.tolist(), inputs[0] if self._shards.encoding == "jpeg" and inputs else ()
            ):
                jpeg = image.tobytes()
                if decode_by_simplejpeg(jpeg, np.empty((IMAGE, IMAGE, 3), np.uint8)) != DECODED:
                    shard, key = self._shards.locate(sample)
                    return LoaderError(
                        f"{self._shards.path}/{shard}: sample {key} {fault_of(jpeg)}; "
                        f"check the set with: python -m sharding verify {self._shards.path}"
                    )
        return LoaderError(f"DALI stopped: {_cause(error)}")


class GraphProducer:
    """Batches of up to `capacity` samples. Built pipelines wait for another epoch (several, if epochs overlap)."""

    def __init__(self, shards: ShardSet, config: DataConfig, statistics: Statistics, capacity: int) -> None:
        self._config = config
        mean, deviation = mean_and_deviation(statistics, config.normalize)
        self._build = lambda: PipelineRunner(
            shards,
            fed_choices(config),
            deviation,
            lambda source: batch_graph(config, mean, deviation, shards.encoding, source, capacity),
        )
        self._waiting: list[PipelineRunner] = []
        self._closed = False
        self.damaged: set[int] = set()  # DALI writes what it thinks of a damaged picture to stderr, and nowhere else

    def batches(self, specs: Generator[BatchSpec]) -> Generator[tuple[BatchSpec, torch.Tensor]]:
        """Each spec with its images: DALI's own outputs, which it does not use again while a tensor refers to them.

        (Its default executor has that rule: `Pipeline.release_outputs`.) On a GPU they are bound to the current stream.
        """
        config, process = self._config, os.getpid()
        stream = torch.cuda.current_stream(config.device) if config.is_cuda else None
        dtype = torch.float32 if config.output == "float32" else torch.uint8
        runner = self._waiting.pop() if self._waiting else self._build()
        try:
            for spec, output in runner.outputs(specs, stream):
                if output is None:
                    images = torch.empty((0, CROP, CROP, 3), dtype=dtype, device=config.device)
                else:
                    images = torch.from_dlpack(output.as_tensor()).reshape(-1, CROP, CROP, 3)
                yield spec, images.permute(0, 3, 1, 2)
        finally:
            if os.getpid() == process:  # a forked child has inherited this generator, but none of the threads
                specs.close()
        if not self._closed:  # nor after an early stop or an error: that pipeline still holds batches
            self._waiting.append(runner)

    def close(self) -> None:
        """Let go of pipelines that wait for another epoch."""
        self._closed = True
        self._waiting.clear()


def _cause(error: RuntimeError) -> str:
    """What DALI met, of a message of many lines that tell where."""
    _, _, cause = str(error).rpartition("encountered:")
    return cause.strip().partition("\n")[0]
