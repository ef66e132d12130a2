"""The DALI graph, written once: decode, crop, mirror, mean image, color; `device` says where it runs.

Enters: `GraphSource`, which hands DALI one batch of views and arrays at a time. Leaves: uint8 or float32
[n, 224, 224, 3] (`views` 10: [n, 10, 224, 224, 3]).

    jpeg ──decode──▶ 256×256 ──crop, mirror, +color, ÷──▶ (−) ──▶ float32        device cuda: decode "mixed",
    mean image ────────────────crop, mirror, ÷────────────▶ ┘                     everything after it on the GPU

On a GPU this is how batches are made; on the CPU it is the reference for the faster route of `cpu_producer`
(`DataConfig(fused=False)`). (The decoders that crop are avoided on a GPU: NVIDIA/nvImageCodec #55.)
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline

from dali_pipelines.augmentation import CENTER, CROP, IMAGE, VIEW_OFFSETS, VIEWS
from dali_pipelines.config import DataConfig

Node = Any  # DALI's DataNode has no useful type
Source = Callable[[], tuple[Any, ...]]  # one batch a call; StopIteration at the end of an epoch

# what is fed beside the images: crop_y, crop_x (0..1), mirror, minus the color offset [3], divisor [3]
_UINT8_CHOICES, _FLOAT32_CHOICES = 3, 5


def fed_choices(config: DataConfig) -> int:
    """How many arrays of choices the graph takes for each batch; the ten views are written into it."""
    if config.views == VIEWS:
        return 0
    return _UINT8_CHOICES if config.output == "uint8" else _FLOAT32_CHOICES


def batch_graph(
    config: DataConfig,
    mean_image: NDArray[np.float64],
    deviation: NDArray[np.float64],
    encoding: str,
    source: Source,
    capacity: int,
) -> Pipeline:
    """The whole graph, not yet built: batches of up to `capacity` samples, as the recipe wants them."""
    pipeline = _pipeline(config, capacity)
    with pipeline:
        device = "gpu" if config.is_cuda else "cpu"
        encoded, *choices = _inputs(source, encoding, fed_choices(config), encoding == "jpeg" or not config.is_cuda)
        images = _decoded(encoded, config, encoding)
        if config.output == "uint8":
            batch = _per_view(
                config, choices, deviation, lambda chosen: _crop(images, chosen, types.DALIDataType.UINT8)
            )
        else:
            constant = types.Constant(mean_image.astype(np.float32), device=device, layout="HWC")
            batch = _per_view(config, choices, deviation, lambda chosen: _normalized(images, constant, chosen, config))
        pipeline.set_outputs(batch)
    return pipeline


def _pipeline(config: DataConfig, capacity: int) -> Pipeline:
    device_id = None
    if config.is_cuda:
        device_id = int(config.device.partition(":")[2] or 0)
    return Pipeline(
        batch_size=capacity,
        num_threads=config.threads,
        device_id=device_id,
        prefetch_queue_depth=config.prefetch,
        exec_dynamic=True,
    )


def _inputs(source: Source, encoding: str, choices: int, no_copy: bool) -> list[Node]:
    """The encoded images, as views of the mapped shards, and the arrays of choices; nothing is copied.

    But for raw pixels on their way to a GPU: DALI copies those into its own pinned memory, from which they travel
    without waiting, as they could not from a mapped file.
    """
    layouts = ["HWC" if encoding == "raw" else ""] + [""] * choices
    return list(fn.external_source(source, num_outputs=1 + choices, layout=layouts, batch=True, no_copy=no_copy))


def _decoded(encoded: Node, config: DataConfig, encoding: str) -> Node:
    """uint8 [256, 256, 3] RGB where the rest of the graph runs."""
    if encoding == "raw":
        return encoded.gpu() if config.is_cuda else encoded
    return fn.decoders.image(
        encoded,
        device="mixed" if config.is_cuda else "cpu",
        output_type=types.DALIImageType.RGB,
        adjust_orientation=False,
        jpeg_fancy_upsampling=True,
        hw_decoder_load=config.hardware_decoder_load,
    )


def _per_view(
    config: DataConfig, choices: list[Node], deviation: NDArray[np.float64], view: Callable[[list[Any]], Node]
) -> Node:
    """The view that the fed choices ask for, or the ten test views stacked; the image is decoded once."""
    if config.views == 1:
        return view(choices)
    tens = []
    for mirror in (0, 1):
        for y, x in VIEW_OFFSETS:
            tens.append(view([y / (IMAGE - CROP), x / (IMAGE - CROP), mirror, [0.0] * 3, deviation.tolist()]))
    return fn.stack(*tens)


def _crop(images: Node, chosen: list[Any], dtype: types.DALIDataType, **arithmetic: Any) -> Node:
    crop_y, crop_x, mirror = chosen[:3]
    return fn.crop_mirror_normalize(
        images,
        crop=(CROP, CROP),
        crop_pos_y=crop_y,
        crop_pos_x=crop_x,
        mirror=mirror,
        dtype=dtype,
        output_layout="HWC",
        **arithmetic,
    )


def _normalized(images: Node, mean_image: Node, chosen: list[Any], config: DataConfig) -> Node:
    """(crop + color offset) ÷ divisor − mean ÷ divisor; `original` always takes the mean's center as it is."""
    minus_offset, divisor = chosen[3:]
    mean_at: list[Any] = chosen[:3]
    if config.recipe == "original":
        mean_at = [CENTER / (IMAGE - CROP), CENTER / (IMAGE - CROP), 0]
    pixels = _crop(images, chosen, types.DALIDataType.FLOAT, mean=minus_offset, std=divisor)
    return pixels - _crop(mean_image, mean_at, types.DALIDataType.FLOAT, std=divisor)
