"""FFCV: a `.beton` file with the same JPEG bytes, its own decoder, and one compiled operation for all the rest.

FFCV has no operation for a mean image, a plain random crop or color noise; somebody who knows it writes one
operation with all of them (its transforms are functions that numba compiles). Its decoder asks libjpeg-turbo for the
fast, less exact DCT (`TJFLAG_FASTDCT` in libffcv.cpp), so its pixels differ. numba freezes the arrays that a function
refers to: crops and colors stay those of the start, a saving of a few random numbers for each picture.

Builds from PyPI with Debian's `libopencv-dev libturbojpeg0-dev pkg-config g++` (ffcv 1.0.2, numpy 2.4, numba 0.68).
"""

import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ffcv.fields import IntField, RGBImageField
from ffcv.fields.decoders import IntDecoder
from ffcv.fields.rgb_image import IMAGE_MODES, SimpleRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.pipeline.allocation_query import AllocationQuery
from ffcv.pipeline.compiler import Compiler
from ffcv.pipeline.operation import Operation
from ffcv.pipeline.state import State
from ffcv.transforms import Squeeze, ToTensor, ToTorchImage
from ffcv.writer import DatasetWriter

from benchmarks.data import made_once
from benchmarks.loader_work import CROP, IMAGE, Epoch, Job

LAPS, LAP_SAMPLES = 4, 1024


class _EncodedField(RGBImageField):
    """Stores a JPEG's bytes as they are, where FFCV would encode pixels anew."""

    def encode(self, destination: Any, image: np.ndarray, malloc: Callable[[int], Any]) -> None:
        destination["mode"] = IMAGE_MODES["jpg"]
        destination["height"] = destination["width"] = IMAGE
        destination["data_ptr"], storage = malloc(image.nbytes)
        storage[:] = image


class _Normalize(Operation):
    """Crop, mirror, mean and color in one pass: uint8 [n, 256, 256, 3] → float32 [n, 224, 224, 3]."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self._mean = job.mean_image
        self._columns = tuple(np.ascontiguousarray(job.rows[name]) for name in job.rows.dtype.names or ())

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, AllocationQuery]:
        shape, dtype = (CROP, CROP, 3), np.dtype(np.float32)
        return replace(previous_state, jit_mode=True, shape=shape, dtype=dtype), AllocationQuery(shape, dtype)

    def generate_code(self) -> Callable[..., np.ndarray]:
        parallel_range, mean, (crop_y, crop_x, mirror, rgb_offset) = Compiler.get_iterator(), self._mean, self._columns

        def normalize(images: np.ndarray, out: np.ndarray, indices: np.ndarray) -> np.ndarray:
            for position in parallel_range(len(indices)):
                number = indices[position]
                top, left = crop_y[number], crop_x[number]
                first, stride = (left + CROP - 1, -1) if mirror[number] else (left, 1)
                red, green, blue = rgb_offset[number]
                for line in range(CROP):
                    source, average, target = images[position, top + line], mean[top + line], out[position, line]
                    for column in range(CROP):
                        origin = first + stride * column
                        target[column, 0] = source[origin, 0] - average[origin, 0] + red
                        target[column, 1] = source[origin, 1] - average[origin, 1] + green
                        target[column, 2] = source[origin, 2] - average[origin, 2] + blue
            return out[: len(indices)]

        normalize.is_parallel = True  # type: ignore[attr-defined]
        normalize.with_indices = True  # type: ignore[attr-defined]
        return normalize


def ffcv(job: Job) -> Epoch:
    """`ffcv.loader.Loader` in random order from the page cache; JPEG bytes, or pixels where the split has them.

    FFCV allocates half a gigabyte anew for each epoch: several laps in one make that as small as in a real run.
    """
    beton, samples = job.prepared / f"{job.shards.encoding}.beton", len(job.rows)
    made_once(beton, lambda part: _write_beton(job, part))
    loader = Loader(
        str(beton),
        batch_size=job.batch_size,
        num_workers=job.workers,
        order=OrderOption.RANDOM,
        os_cache=True,
        indices=np.tile(np.arange(samples), LAPS if samples >= LAP_SAMPLES else 1),
        drop_last=True,
        custom_fields={"image": RGBImageField},
        pipelines={
            "image": [SimpleRGBImageDecoder(), _Normalize(job), ToTensor(), ToTorchImage()],
            "id": [IntDecoder(), ToTensor(), Squeeze()],
        },
    )
    return lambda: iter(loader)


def _write_beton(job: Job, path: Path) -> None:
    image = RGBImageField(write_mode="raw") if job.shards.encoding == "raw" else _EncodedField()
    samples = [(view, number) for number, view in enumerate(job.shards.images(range(len(job.rows))))]
    fields = {"image": image, "id": IntField()}
    multiprocessing.set_start_method("fork", force=True)  # of the writer's processes; else as this one was started
    DatasetWriter(str(path), fields, num_workers=job.workers).from_indexed_dataset(samples)
