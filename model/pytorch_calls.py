"""The network in evaluation as a chain of PyTorch's own calls, as data: what an exported file tells those without us.

Each call is `[function, options]`: a function of torch.nn.functional, or a method of Tensor, that takes what the call
before it gave; an option that is text names a weight. The first takes standardized images [n, 3, 224, 224], the last
gives logits [n, classes]. PyTorch has no response norm over 5×5 pixels; `_spatial_norm` says how its other one serves.
"""

import math
from typing import Any

from model.alexnet import ModelConfig
from model.recipe import recipe
from model.response_norm import CHANNEL_CONSTANT, SPATIAL_CONSTANT, SPATIAL_SCALE

Call = tuple[str, dict[str, Any]]
NEIGHBORS = 5  # channels that a response norm sums over, and rows and columns of the spatial one


def pytorch_calls(config: ModelConfig) -> list[Call]:
    """The calls that compute what `AlexNet(config).eval()` does, from its unsplit weights; all JSON can hold."""
    numbers = recipe(config.recipe)
    width = {layer: config.tower_width(layer) for layer in ("conv1", "conv2")}
    pool: Call = ("max_pool2d", {"kernel_size": 3, "stride": 2})
    relu: Call = ("relu", {})
    half: Call = ("mul", {"other": 0.5})  # dropout in evaluation, §4.2
    late = {layer: layer in numbers.pool_before_relu for layer in ("conv1", "conv5")}

    calls = [("pad", {"pad": list(numbers.conv1_padding)}), _weighted("conv2d", "conv1", stride=4)]
    calls += [] if late["conv1"] else [relu]
    calls += [*_channel_norm(numbers.norm_scale, width["conv1"], 55), pool]
    calls += [relu] if late["conv1"] else []
    calls += [_weighted("conv2d", "conv2", padding=2, groups=2), relu]
    calls += _channel_norm(numbers.norm_scale, width["conv2"], 27)
    calls += _spatial_norm(2 * width["conv2"], 27) if numbers.spatial_norm else []
    calls += [pool, _weighted("conv2d", "conv3", padding=1), relu]
    calls += [_weighted("conv2d", "conv4", padding=1, groups=2), relu]
    calls += [_weighted("conv2d", "conv5", padding=1, groups=2)]
    calls += [pool, relu] if late["conv5"] else [relu, pool]
    calls += [("flatten", {"start_dim": 1}), _weighted("linear", "fc6"), relu, half, _weighted("linear", "fc7"), relu]
    return [*calls, half, _weighted("linear", "fc8")]


def _weighted(function: str, layer: str, **options: int) -> Call:
    return function, {"weight": f"{layer}.weight", "bias": f"{layer}.bias", **options}


def _channel_norm(scale: float, channels: int, side: int) -> list[Call]:
    """Each tower's `channels` among themselves: the towers stand as images of their own meanwhile."""
    return [
        ("reshape", {"shape": [-1, channels, side, side]}),
        _norm(NEIGHBORS, scale, CHANNEL_CONSTANT),
        ("reshape", {"shape": [-1, 2 * channels, side, side]}),
    ]


def _spatial_norm(channels: int, side: int) -> list[Call]:
    """The norm over pixels by that over channels: a pixel's 25 neighbors become channels, and the middle one stays.

    The zeros that `unfold` and the norm put around the edge count in no sum.
    """
    pixels = NEIGHBORS**2
    return [
        ("unfold", {"kernel_size": NEIGHBORS, "padding": NEIGHBORS // 2}),
        ("reshape", {"shape": [-1, pixels, side * side]}),
        _norm(pixels, SPATIAL_SCALE, SPATIAL_CONSTANT),
        ("narrow", {"dim": 1, "start": pixels // 2, "length": 1}),
        ("reshape", {"shape": [-1, channels, side, side]}),
    ]


def _norm(size: int, scale: float, constant: float) -> Call:
    """PyTorch's norm, whose alpha is of the mean of the squares; ours is of their sum."""
    alpha = size * scale
    alpha = round(alpha, 11 - math.floor(math.log10(alpha)))  # 0.0001, not 0.00010000000000000002
    return "local_response_norm", {"size": size, "alpha": alpha, "beta": 0.75, "k": constant}
