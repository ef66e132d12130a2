"""AlexNet of 2012, unsplit: standardized images in, logits out. Both towers in one module, as grouped convolutions.

    images [n, 3, 224, 224] → conv1 55 → norm, pool 27 → conv2 27 → norm(s), pool 13 → conv3 13 → conv4 13 → conv5 13
    → pool 6 → fc6 → fc7 → fc8 [n, classes]

conv3, fc6, fc7 and fc8 see both towers; conv2, conv4, conv5 and the response norms their own. `Towers` is the part that
the split network (`model.two_tower`) shares: it runs one or two towers, and leaves open how they meet.
`ModelConfig.ablate` leaves parts out, to measure what they are worth.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.dropout import DropoutKey
from model.recipe import BIASES_AT_ONE, LAYERS, recipe
from model.response_norm import response_norm, spatial_norm

# Krizhevsky 2012 §3.5, for one of the two towers
WIDTHS = {"conv1": 48, "conv2": 128, "conv3": 192, "conv4": 192, "conv5": 128, "fc6": 2048, "fc7": 2048}
INPUT = 224
POOLED = 6  # rows and columns of conv5's pooled maps
# What can be left out, and what stands in its place.
ABLATIONS = {
    "norms": "no response norm (§3.3; original #148)",
    "overlap": "pooling of 2×2 pixels, stride 2: windows that do not overlap (§3.4; original #147)",
    "columns": "one tower, in which conv5, fc6 and fc7 are as wide as in both (§3.2; original #145-half)",
    "dropout": "all units of fc6 and fc7, unscaled, in training and evaluation (§4.2)",
    "conv3": "conv4 takes conv2's pooled maps, each tower its own (§7)",
    "conv4": "conv5 takes conv3's maps (§7)",
    "conv5": "the last pooling takes conv4's maps (§7)",
}
HALVED = ("conv1", "conv2", "conv3", "conv4")  # layers of which one column has as many kernels as one of two towers


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which network.

    recipe: `original` or `paper`.
    classes: outputs, 1 or more.
    width: factor on every layer's width, above 0; 1 is the paper's network. The initial deviation of every layer but
        conv1 grows by 1/√width with it, else a narrow network sits at chance for long.
    ablate: names from `ABLATIONS`, the parts left out; kept in that table's order, each once.
    Raises ValueError with the value and the rule.
    """

    recipe: str = "original"
    classes: int = 1000
    width: float = 1.0
    ablate: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        recipe(self.recipe)
        unknown = sorted(set(self.ablate).difference(ABLATIONS))
        if unknown:
            raise ValueError(f"ablate is {unknown}, expected some of {', '.join(ABLATIONS)}")
        object.__setattr__(self, "ablate", tuple(name for name in ABLATIONS if name in self.ablate))
        if self.classes < 1:
            raise ValueError(f"classes is {self.classes}, expected 1 or more")
        if not 0.0 < self.width < math.inf:
            raise ValueError(f"width is {self.width}, expected a finite number above 0")

    @property
    def towers(self) -> int:
        """Columns of the network, which could lie on a device each: 2, or 1 if they are left out."""
        return 1 if "columns" in self.ablate else 2

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that have weights, first to last."""
        return tuple(layer for layer in LAYERS if layer not in self.ablate)

    @property
    def middle_layers(self) -> tuple[str, ...]:
        """Those of conv3, conv4 and conv5 that are there."""
        return tuple(layer for layer in self.layers if layer in ("conv3", "conv4", "conv5"))

    @property
    def pool_size(self) -> int:
        """Rows and columns that a pooling takes the largest of; its stride is 2."""
        return 2 if "overlap" in self.ablate else 3

    def tower_width(self, layer: str) -> int:
        """Kernels or units of `layer` in one tower."""
        width = max(1, round(WIDTHS[layer] * self.width))
        return width if self.towers == 2 or layer in HALVED else 2 * width


def initial_state(config: ModelConfig, seed: int) -> dict[str, Tensor]:
    """The weights and biases that training begins with, float32, unsplit layout, by parameter name."""
    numbers = recipe(config.recipe)
    generator = torch.Generator().manual_seed(seed)
    state = {}
    with torch.device("meta"):
        shapes = {name: parameter.shape for name, parameter in Towers(config, config.towers).named_parameters()}
    for layer in config.layers:
        deviation = numbers.deviations[layer] / (1.0 if layer == "conv1" else math.sqrt(config.width))
        weight = torch.empty(shapes[f"{layer}.weight"], device="cpu")
        state[f"{layer}.weight"] = weight.normal_(0.0, deviation, generator=generator)
        state[f"{layer}.bias"] = torch.full(shapes[f"{layer}.bias"], float(layer in BIASES_AT_ONE), device="cpu")
    return state


class Towers(nn.Module):
    """One tower, or both side by side, with uninitialized weights. Parameters `conv1.weight` … `fc8.bias`."""

    first_tower = 0

    def __init__(self, config: ModelConfig, towers: int) -> None:
        super().__init__()
        self.config = config
        self.towers = towers
        self.recipe = recipe(config.recipe)
        width = {layer: towers * config.tower_width(layer) for layer in WIDTHS}
        both = {layer: config.towers * config.tower_width(layer) for layer in WIDTHS}
        empty = nn.utils.skip_init
        self.conv1 = empty(nn.Conv2d, 3, width["conv1"], 11, stride=4)
        self.conv2 = empty(nn.Conv2d, width["conv1"], width["conv2"], 5, padding=2, groups=towers)
        below = "conv2"
        for layer in config.middle_layers:
            maps, groups = (both[below], 1) if layer == "conv3" else (width[below], towers)
            setattr(self, layer, empty(nn.Conv2d, maps, width[layer], 3, padding=1, groups=groups))
            below = layer
        self.fc6 = empty(nn.Linear, both[below] * POOLED**2, width["fc6"])
        self.fc7 = empty(nn.Linear, both["fc6"], width["fc7"])
        self.fc8 = empty(nn.Linear, width["fc7"], config.classes)
        self.norm1, self.norm2 = self._norms()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _norms(self) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
        """What follows conv1 and conv2."""
        if "norms" in self.config.ablate:
            return nn.Identity(), nn.Identity()
        norm = functools.partial(response_norm, scale=self.recipe.norm_scale, towers=self.towers)
        return norm, functools.partial(_both_norms, norm) if self.recipe.spatial_norm else norm

    def exchange(self, x: Tensor) -> Tensor:
        """What both towers hold, [n, both towers' channels, …], from what the towers here hold."""
        return x

    def add_up(self, parts: Tensor) -> Tensor:
        """The sum over the towers of their parts of the logits."""
        return parts

    def forward(self, images: Tensor, dropout: DropoutKey | None = None) -> Tensor:
        """Logits [n, classes] of float images [n, 3, 224, 224], which are converted to the weights' dtype.

        dropout: one id for each image; ignored in evaluation. ValueError without it in training, and for other shapes.
        """
        if self.training and dropout is None:
            raise ValueError(
                "the network is in training mode: pass dropout=DropoutKey(seed, step, ids), or call eval()"
            )
        if dropout is not None and len(dropout.ids) != len(images):
            raise ValueError(f"{len(images)} images but {len(dropout.ids)} dropout ids; expected one id for each image")
        dropout = dropout if self.training else None
        hidden = self._drop(self._features(images, dropout), 7, dropout)
        return self.add_up(F.linear(hidden, self.fc8.weight)) + self.fc8.bias

    def features(self, images: Tensor) -> Tensor:
        """fc7's outputs after ReLU, [n, fc7's units of both towers], as in evaluation; for neighbors (§6.1)."""
        return self.exchange(self._features(images, None))

    def _features(self, images: Tensor, dropout: DropoutKey | None) -> Tensor:
        """fc7's outputs of the towers here."""
        if images.shape[1:] != (3, INPUT, INPUT):
            raise ValueError(f"images are {list(images.shape)}, expected [n, 3, {INPUT}, {INPUT}]")
        pooled = self._convolutions(images.to(self.conv1.weight.dtype))
        hidden = F.relu(self.fc6(self.exchange(pooled).flatten(1)), inplace=True)
        hidden = self.exchange(self._drop(hidden, 6, dropout))
        return F.relu(self.fc7(hidden), inplace=True)

    def _convolutions(self, x: Tensor) -> Tensor:
        """The last pooled maps of the towers here, [n, conv5's kernels, 6, 6]."""
        x = self.conv1(F.pad(x, self.recipe.conv1_padding))
        x = self._relu("conv1", x)
        x = self._pool("conv1", self.norm1(x))
        x = F.relu(self.conv2(x), inplace=True)
        x = self._pool("conv2", self.norm2(x))
        for layer in self.config.middle_layers:
            x = getattr(self, layer)(self.exchange(x) if layer == "conv3" else x)
            x = self._relu(layer, x)
        return self._pool(self.config.layers[-4], x)  # the last one before fc6

    def _relu(self, layer: str, x: Tensor, pooled: bool = False) -> Tensor:
        """The ReLU of `layer`, where the recipe has it: before the pooling, or after it."""
        return F.relu(x, inplace=True) if pooled == (layer in self.recipe.pool_before_relu) else x

    def _pool(self, layer: str, x: Tensor) -> Tensor:
        """Overlapping max-pooling (§3.4)."""
        return self._relu(layer, F.max_pool2d(x, self.config.pool_size, stride=2), pooled=True)

    def _drop(self, x: Tensor, layer: int, dropout: DropoutKey | None) -> Tensor:
        """Dropout as published (§4.2): in training outputs are dropped or stay unscaled; all times ½ in evaluation."""
        if "dropout" in self.config.ablate:
            return x
        if dropout is None:
            return x * 0.5
        units = x.shape[1]
        return x * dropout.mask(layer, units, first=self.first_tower * units)


def _both_norms(across_channels: Callable[[Tensor], Tensor], maps: Tensor) -> Tensor:
    return spatial_norm(across_channels(maps))


class AlexNet(Towers):
    """The network with all its towers in one place: the reference that the split one must equal.

    Its weights are drawn from `seed` by the recipe's rules; 60,965,224 parameters at 1,000 classes and width 1.
    """

    def __init__(self, config: ModelConfig, seed: int = 0) -> None:
        super().__init__(config, config.towers)
        self.load_state_dict(initial_state(config, seed))
