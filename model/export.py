"""A run's checkpoint in, one `.safetensors` file out: weights, mean image, and what is needed to use them elsewhere.

Tensors: the unsplit weights by name, float32 and contiguous, and `mean_image` float32 [256, 256, 3] RGB 0..255.
Metadata, all text: `recipe`, `width`, `ablate` (JSON list), `layers` (JSON: the network as PyTorch's own calls, see
`pytorch_calls`), `classes` (JSON list of [label, wnid, name]), `data_fingerprint`, `checkpoint_sha256`,
`tensor_sha256` (JSON, of each tensor's little-endian bytes), `epoch`, `step`. `python -m model export` calls it.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from common.files import write_atomically
from model.alexnet import ModelConfig
from model.checkpoint import find_checkpoint, load_checkpoint
from model.recipe import recipe
from model.response_norm import CHANNEL_CONSTANT, SPATIAL_CONSTANT, SPATIAL_SCALE

Call = tuple[str, dict[str, Any]]
NEIGHBORS = 5  # channels that a response norm sums over, and rows and columns of the spatial one


def export(run: Path, target: Path, name: str = "last") -> Path:
    """Write the run's `last` or `best` checkpoint to `target`, whole or not at all; returns `target`.

    Raises CheckpointError when the checkpoint is missing, damaged or does not fit, or holds a value that is no number.
    """
    source = find_checkpoint(run, name)
    checkpoint = load_checkpoint(source)
    tensors = {**checkpoint["model"], "mean_image": checkpoint["statistics"]["mean_image"]}
    tensors = {name: tensor.to(torch.float32).contiguous() for name, tensor in tensors.items()}
    checksums = {
        name: hashlib.sha256(tensor.numpy().astype("<f4").tobytes()).hexdigest() for name, tensor in tensors.items()
    }
    config, dataset = ModelConfig(**checkpoint["model_config"]), checkpoint["dataset"]
    about = {
        "format": "pt",
        "recipe": config.recipe,
        "width": repr(config.width),
        "ablate": json.dumps(config.ablate),
        "layers": json.dumps(pytorch_calls(config)),
        "classes": json.dumps(dataset["classes"], ensure_ascii=False),
        "data_fingerprint": dataset["fingerprint"],
        "tensor_sha256": json.dumps(checksums),
        "epoch": str(checkpoint["epoch"]),
        "step": str(checkpoint["step"]),
        "checkpoint_sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
    }
    with write_atomically(target) as file:
        file.write(save(tensors, metadata=about))
    return target


def pytorch_calls(config: ModelConfig) -> list[Call]:
    """The calls that compute what `AlexNet(config).eval()` does, from its unsplit weights; all JSON can hold.

    Each call is `[function, options]`: a function of torch.nn.functional, or a method of Tensor, that takes what the
    call before it gave; an option that is text names a weight. The first takes standardized images [n, 3, 224, 224],
    the last gives logits [n, classes].
    """
    late_relu = recipe(config.recipe).pool_before_relu
    pool: Call = ("max_pool2d", {"kernel_size": config.pool_size, "stride": 2})
    relu: Call = ("relu", {})
    half: list[Call] = [] if "dropout" in config.ablate else [("mul", {"other": 0.5})]  # dropout in evaluation, §4.2

    calls: list[Call] = [("pad", {"pad": list(recipe(config.recipe).conv1_padding)})]
    calls += [_weighted("conv2d", "conv1", stride=4)]
    norm1, norm2 = _norms(config, "conv1", 55), _norms(config, "conv2", 27)
    calls += [*norm1, pool, relu] if "conv1" in late_relu else [relu, *norm1, pool]
    calls += [_weighted("conv2d", "conv2", padding=2, groups=config.towers), relu, *norm2, pool]
    for layer in config.middle_layers:
        groups = 1 if layer == "conv3" else config.towers
        calls += [_weighted("conv2d", layer, padding=1, groups=groups), relu]
    calls += [pool, ("flatten", {"start_dim": 1})]  # conv5's ReLU before pooling: the maxima are the same
    for layer in ("fc6", "fc7"):
        calls += [_weighted("linear", layer), relu, *half]
    return [*calls, _weighted("linear", "fc8")]


def _weighted(function: str, layer: str, **options: int) -> Call:
    return function, {"weight": f"{layer}.weight", "bias": f"{layer}.bias", **options}


def _norms(config: ModelConfig, layer: str, side: int) -> list[Call]:
    """The response norms of `layer`, whose maps have `side` rows and columns."""
    if "norms" in config.ablate:
        return []
    numbers, channels = recipe(config.recipe), config.tower_width(layer)
    towers_apart: Call = ("reshape", {"shape": [-1, channels, side, side]})  # as images of their own meanwhile
    together: Call = ("reshape", {"shape": [-1, config.towers * channels, side, side]})
    calls = [towers_apart, _norm(NEIGHBORS, numbers.norm_scale, CHANNEL_CONSTANT), together]
    if layer != "conv2" or not numbers.spatial_norm:
        return calls
    # The norm over pixels, which PyTorch lacks, by that over channels: a pixel's 25 neighbors become channels, and the
    # middle one stays. The zeros that `unfold` and the norm put around the edge count in no sum.
    pixels = NEIGHBORS**2
    return [
        *calls,
        ("unfold", {"kernel_size": NEIGHBORS, "padding": NEIGHBORS // 2}),
        ("reshape", {"shape": [-1, pixels, side * side]}),
        _norm(pixels, SPATIAL_SCALE, SPATIAL_CONSTANT),
        ("narrow", {"dim": 1, "start": pixels // 2, "length": 1}),
        together,
    ]


def _norm(size: int, scale: float, constant: float) -> Call:
    """PyTorch's norm, whose alpha is of the mean of the squares; ours is of their sum."""
    alpha = size * scale
    alpha = round(alpha, 11 - math.floor(math.log10(alpha)))  # 0.0001, not 0.00010000000000000002
    return "local_response_norm", {"size": size, "alpha": alpha, "beta": 0.75, "k": constant}
