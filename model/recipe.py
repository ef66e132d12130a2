"""The two recipes, `paper` and `original`, as data: every number in which their networks and optimizers differ.

A name goes in (`recipe("original")`), a frozen `Recipe` comes out; networks, optimizer and schedule read it.
Sources: Krizhevsky 2012, §3 and §5; the released program's `layers-145.cfg` and `layer-params-145-2010.cfg`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")

# Krizhevsky 2012 §5, the same in the original: biases that start at 1 feed ReLUs positive inputs early on.
BIASES_AT_ONE = frozenset({"conv2", "conv4", "conv5", "fc6", "fc7"})
MOMENTUM = 0.9  # §5
WEIGHT_DECAY = 0.0005  # §5; on the weights only


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What sets one recipe apart.

    name: `paper` or `original`.
    conv1_padding: rows and columns of zeros (left, right, above, below) around the 224×224 input; 55×55 come out.
    pool_before_relu: layers whose ReLU comes after the pooling (in conv1: after response norm and pooling).
    norm_scale: factor of each squared activation in the response norm, b = a / (2 + norm_scale·Σa²)^0.75.
    spatial_norm: whether a second, spatial response norm follows that of conv2.
    deviations: standard deviation of each layer's initial weights at full width.
    """

    name: str
    conv1_padding: tuple[int, int, int, int]
    pool_before_relu: frozenset[str]
    norm_scale: float
    spatial_norm: bool
    deviations: Mapping[str, float]


RECIPES = {
    "paper": Recipe(
        name="paper",
        conv1_padding=(2, 2, 2, 2),  # the paper does not say; symmetric
        pool_before_relu=frozenset(),
        norm_scale=1e-4,  # §3.3, read literally: α multiplies the sum
        spatial_norm=False,
        deviations=dict.fromkeys(LAYERS, 0.01),
    ),
    "original": Recipe(
        name="original",
        conv1_padding=(0, 3, 0, 3),  # pad 0, 1 + ceil((224 - 11) / 4) outputs: what is missing lies right and below
        pool_before_relu=frozenset({"conv1", "conv5"}),
        norm_scale=1e-4 / 5,  # layer-params: scale 1e-4, which cuda-convnet divides by the size
        spatial_norm=True,
        deviations=dict.fromkeys(LAYERS, 0.01) | dict.fromkeys(("conv3", "conv4", "conv5"), 0.03),
    ),
}


def recipe(name: str) -> Recipe:
    """The recipe called `name`; ValueError for any other name than `paper` and `original`."""
    if name not in RECIPES:
        raise ValueError(f"recipe is {name!r}, expected one of {', '.join(map(repr, RECIPES))}")
    return RECIPES[name]
