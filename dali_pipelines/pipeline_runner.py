"""One DALI pipeline, fed with plans and giving its outputs in their order."""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from nvidia.dali import fn
from nvidia.dali.pipeline import Pipeline

from dali_pipelines.augmentation import CROP, IMAGE, Augmentation
from dali_pipelines.config import LoaderError
from dali_pipelines.graph import Source
from sharding import ShardSet

logger = logging.getLogger(__name__)

Arrays = tuple[Any, ...]
FREE = np.float32(IMAGE - CROP)  # what a crop leaves free each way


@dataclass(frozen=True, kw_only=True)
class BatchSpec:
    """ids, positions, labels: int64 [n]; images: n views of the mapped shards (JPEG bytes or raw pixels)."""

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    labels: NDArray[np.int64]
    images: list[NDArray[np.uint8]]
    augmentation: Augmentation
    samples: int

    def __len__(self) -> int:
        return len(self.ids)


def graph_arrays(spec: BatchSpec, choices: int) -> Arrays:
    """What a graph eats: the images and the first `choices` arrays of choices (see `graph.fed_choices`)."""
    if not choices:
        return (spec.images,)
    choice = spec.augmentation
    offset = choice.rgb_offset
    arrays = (
        np.float32(choice.crop_y) / FREE,
        np.float32(choice.crop_x) / FREE,
        choice.mirror.astype(np.int32),
        -offset,
        np.full_like(offset, choice.divisor),
    )
    return spec.images, *arrays[:choices]


class GraphSource:
    """The callback that DALI asks for its next batch; keeps what DALI refers to until the batch is delivered."""

    def __init__(self, choices: int) -> None:
        self._choices = choices
        self.specs: Iterator[BatchSpec] = iter(())
        self.taken: deque[tuple[BatchSpec, Arrays]] = deque()

    def __call__(self) -> Arrays:
        for spec in self.specs:
            arrays = graph_arrays(spec, self._choices) if len(spec) else ()
            self.taken.append((spec, arrays))
            if len(spec):
                return arrays
        raise StopIteration


class PipelineRunner:
    """A pipeline that can be run over one epoch after another."""

    def __init__(self, shards: ShardSet, choices: int, graph: Callable[[Source], Pipeline]) -> None:
        self._shards = shards
        self._source = GraphSource(choices)
        self._pipeline = graph(self._source)
        self._pipeline.build()

    def outputs(self, specs: Iterator[BatchSpec], stream: Any = None) -> Iterator[tuple[BatchSpec, Any]]:
        """Each plan with DALI's output for it (None where the plan is empty), in order.

        Raises LoaderError for an image that cannot be decoded; the pipeline is then of no more use.
        """
        source = self._source
        source.specs = specs
        # a GPU may still be reading what a delivered batch was made from
        delivered: deque[tuple[BatchSpec, Arrays]] = deque(maxlen=self._pipeline.prefetch_queue_depth + 1)
        try:
            while (output := self._next_output(stream)) is not None:
                while not len(source.taken[0][0]):
                    yield source.taken.popleft()[0], None
                delivered.append(source.taken.popleft())
                yield delivered[-1][0], output
            while source.taken:
                yield source.taken.popleft()[0], None
        finally:
            source.specs = iter(())

    def drain(self) -> bool:
        """Let go of what a consumer that stopped early left in the pipeline. Whether the pipeline can run again.

        It cannot where a picture of those does not decode: an error of a batch that nobody asked for, so not told.
        """
        try:
            while self._run(None) is not None:
                pass
        except RuntimeError as error:
            logger.debug("%s: a batch that was not asked for failed: %s", self._shards.path, _cause(error))
            return False
        finally:
            self._source.taken.clear()
        return True

    def _next_output(self, stream: Any) -> Any:
        """What `_run` gives; raises LoaderError for an image that cannot be decoded."""
        try:
            return self._run(stream)
        except RuntimeError as error:
            raise self._explained(error) from error

    def _run(self, stream: Any) -> Any:
        """The next batch's output; None at the end of the epoch, after which the pipeline can run again."""
        try:
            return self._pipeline.run(stream)[0]
        except StopIteration:
            self._pipeline.reset()
            return None

    def _explained(self, error: RuntimeError) -> LoaderError:
        """The error with the shard and key of the first image, of those in the pipeline, that does not decode."""
        for spec, _arrays in self._source.taken:
            for sample, image in zip(spec.ids, spec.images):
                reason = undecodable(image)
                if reason:
                    shard, key = self._shards.locate(int(sample))
                    return LoaderError(
                        f"{self._shards.path}/{shard}: sample {key} does not decode ({reason}); "
                        f"check the set with: python -m sharding verify {self._shards.path}"
                    )
        return LoaderError(f"DALI stopped: {_cause(error)}")


def undecodable(image: NDArray[np.uint8]) -> str:
    """Why DALI's CPU decoder refuses `image` (JPEG bytes [n]); empty where it decodes."""
    if image.ndim != 1:
        return ""
    pipeline = Pipeline(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1)
    with pipeline:
        pipeline.set_outputs(fn.decoders.image(fn.external_source(lambda: [image], batch=True), device="cpu"))
    try:
        pipeline.run()
    except RuntimeError as error:
        return _cause(error)
    return ""


def _cause(error: RuntimeError) -> str:
    """What DALI met, of a message of many lines that tell where."""
    _, _, cause = str(error).rpartition("encountered:")
    return cause.strip().partition("\n")[0]
