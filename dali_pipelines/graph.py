"""The DALI graph, written once: decode, crop, mirror, mean image, color; `device` says where it runs. And its running.

    jpeg ──decode──▶ 256×256 ──crop, mirror, +color, ÷──▶ (−) ──▶ float32        device cuda: decode "mixed",
    mean image ────────────────crop, mirror, ÷────────────▶ ┘                     everything after it on the GPU

On a GPU this is how batches are made; on the CPU it is the reference for the faster route of `cpu_producer`
(`DataConfig(fused=False)`). (The decoders that crop are avoided on a GPU: NVIDIA/nvImageCodec #55.)
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline

from dali_pipelines.augmentation import CENTER, CROP, IMAGE, VIEW_OFFSETS, VIEWS, fixed_views
from dali_pipelines.config import BatchSpec, DataConfig, LoaderError, picture_error
from dali_pipelines.libjpeg import DECODED, decode_by_simplejpeg
from dali_pipelines.normalize import mean_and_deviation
from sharding import ShardSet, Statistics

Node = Any  # DALI's DataNode has no useful type
Inputs = tuple[Any, ...]
Source = Callable[[], Inputs]  # one batch a call; StopIteration at the end of an epoch

FREE = IMAGE - CROP  # what a crop leaves free each way


def fed_choices(config: DataConfig) -> int:
    """Arrays fed with a batch: crop_y, crop_x (0..1), mirror; if float32, −color offset, divisor; of ten views none."""
    if config.views == VIEWS:
        return 0
    return 3 if config.output == "uint8" else 5


def batch_graph(config: DataConfig, statistics: Statistics, encoding: str, source: Source, capacity: int) -> Pipeline:
    """The graph, unbuilt: batches [n, 224, 224, 3] (ten views: [n, 10, 224, 224, 3]) of up to `capacity` samples."""
    pipeline = Pipeline(
        batch_size=capacity,
        num_threads=config.threads,
        device_id=int(config.device.partition(":")[2] or 0) if config.is_cuda else None,
        prefetch_queue_depth=config.prefetch,
        exec_dynamic=True,
    )
    raw, choices = encoding == "raw", fed_choices(config)
    mean_image, deviation = mean_and_deviation(statistics, config.normalize)
    with pipeline:
        encoded, *chosen = fn.external_source(
            source,
            num_outputs=1 + choices,
            layout=["HWC" if raw else ""] + [""] * choices,
            batch=True,
            # views of the mapped shards; but DALI copies raw pixels on their way to a GPU into its own pinned memory,
            # from which they travel without waiting, as they could not from a mapped file
            no_copy=not (raw and config.is_cuda),
        )
        images = encoded.gpu() if raw and config.is_cuda else encoded
        if not raw:
            images = fn.decoders.image(
                encoded,
                device="mixed" if config.is_cuda else "cpu",
                output_type=types.DALIImageType.RGB,
                adjust_orientation=False,
                jpeg_fancy_upsampling=True,
                hw_decoder_load=float(config.hardware_decoder_load),
            )
        mean = None
        if config.output == "float32":
            device = "gpu" if config.is_cuda else "cpu"
            mean = types.Constant(mean_image.astype(np.float32), device=device, layout="HWC")
        if config.views == VIEWS:
            places = [(y / FREE, x / FREE, mirror) for mirror in (0, 1) for y, x in VIEW_OFFSETS]
            views = [_view(images, mean, [*place, [0.0] * 3, deviation.tolist()], config) for place in places]
            pipeline.set_outputs(fn.stack(*views))
        else:
            pipeline.set_outputs(_view(images, mean, chosen, config))
    return pipeline


def _view(images: Node, mean: Node | None, chosen: list[Any], config: DataConfig) -> Node:
    """The uint8 crop; with a mean image, (crop + color offset) ÷ divisor − the mean's crop (or center) ÷ divisor."""
    crop = partial(fn.crop_mirror_normalize, crop=(CROP, CROP), output_layout="HWC")
    y, x, mirror, *arithmetic = chosen
    if mean is None:
        return crop(images, crop_pos_y=y, crop_pos_x=x, mirror=mirror, dtype=types.DALIDataType.UINT8)
    crop = partial(crop, dtype=types.DALIDataType.FLOAT, std=arithmetic[1])
    pixels = crop(images, crop_pos_y=y, crop_pos_x=x, mirror=mirror, mean=arithmetic[0])
    if config.recipe == "original":
        y, x, mirror = CENTER / FREE, CENTER / FREE, 0
    return pixels - crop(mean, crop_pos_y=y, crop_pos_x=x, mirror=mirror)


class GraphSource:
    """What DALI asks for its next batch. (It knows no pipeline: in a cycle, DALI's threads would outlive their use.)"""

    def __init__(self, shards: ShardSet, config: DataConfig, statistics: Statistics) -> None:
        self._shards, self._config = shards, config
        _, self._deviation = mean_and_deviation(statistics, config.normalize)
        self.specs: Iterator[BatchSpec] = iter(())
        self.fed: deque[tuple[BatchSpec, Inputs]] = deque()  # what DALI refers to until the batch is delivered

    def __call__(self) -> Inputs:
        """The images of the next batch and the arrays of choices (see `fed_choices`); StopIteration behind the last."""
        spec = next(self.specs)
        ids, choice = spec.ids.numpy(), spec.augmentation
        if not len(ids):  # DALI takes no empty batch: the first sample stands in, and is cut off when it comes out
            ids, choice = np.zeros(1, np.int64), fixed_views(1, self._config.views)
        arrays = (
            np.float32(choice.crop_y) / FREE,
            np.float32(choice.crop_x) / FREE,
            choice.mirror.astype(np.int32),
            -choice.rgb_offset,
            np.broadcast_to(np.float32(choice.divisor * self._deviation), choice.rgb_offset.shape).copy(),
        )
        self.fed.append((spec, (self._shards.images(ids), *arrays[: fed_choices(self._config)])))
        return self.fed[-1][1]


class GraphProducer:
    """Batches of up to `capacity` samples. Built pipelines wait for another epoch (several, if epochs overlap)."""

    def __init__(self, shards: ShardSet, config: DataConfig, statistics: Statistics, capacity: int) -> None:
        self._shards, self._config, self._statistics, self._capacity = shards, config, statistics, capacity
        self._waiting: list[tuple[Pipeline, GraphSource]] = []
        self.damaged: set[int] = set()  # DALI writes what it thinks of a damaged picture to stderr, and nowhere else

    def batches(self, specs: Generator[BatchSpec]) -> Generator[tuple[BatchSpec, torch.Tensor]]:
        """Each spec with its images: DALI's own outputs, which it does not use again while a tensor refers to them.

        (Its default executor has that rule: `Pipeline.release_outputs`.) On a GPU they are bound to the current stream.
        Raises LoaderError for an image that cannot be decoded.
        """
        config, process = self._config, os.getpid()
        stream = torch.cuda.current_stream(config.device) if config.is_cuda else None
        if self._waiting:
            pipeline, source = self._waiting.pop()
        else:
            source = GraphSource(self._shards, config, self._statistics)
            pipeline = batch_graph(config, self._statistics, self._shards.encoding, source, self._capacity)
            pipeline.build()
        source.specs = specs
        # a GPU may still be reading what a delivered batch was made from
        delivered: deque[tuple[BatchSpec, Inputs]] = deque(maxlen=pipeline.prefetch_queue_depth + 1)
        try:
            while True:
                output = pipeline.run(stream)[0]
                spec, inputs = source.fed.popleft()
                delivered.append((spec, inputs))
                images = torch.from_dlpack(output.as_tensor()).reshape(-1, CROP, CROP, 3)
                yield spec, images[: len(spec.ids) * config.views].permute(0, 3, 1, 2)
        except StopIteration:  # the end; after an early stop or an error a pipeline still holds batches
            pipeline.reset()
            self._waiting.append((pipeline, source))
        except RuntimeError as error:
            raise self._explained(error, source) from error
        finally:
            source.specs = iter(())
            if os.getpid() == process:  # a forked child has inherited this generator, but none of the threads
                specs.close()

    def _explained(self, error: RuntimeError, source: GraphSource) -> LoaderError:
        """The error with the shard and key of the first image, of those in the pipeline, that does not decode."""
        pixels = np.empty((IMAGE, IMAGE, 3), np.uint8)
        for spec, (images, *_) in source.fed if self._shards.encoding == "jpeg" else ():
            for sample, image in zip(spec.ids.tolist(), images):
                status, fault = decode_by_simplejpeg(image.tobytes(), pixels)
                if status != DECODED:
                    return picture_error(self._shards, sample, fault)
        _, _, cause = str(error).rpartition("encountered:")  # of many lines that tell where
        return LoaderError("DALI stopped: " + cause.strip().partition("\n")[0])
