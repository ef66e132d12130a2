"""Networks with parts left out: counts against sums on paper, logits against NumPy and PyTorch's own calls."""

import math

import numpy as np
import pytest
import torch

from model import DropoutKey, ModelConfig
from model.alexnet import ABLATIONS, Towers
from model.export import pytorch_calls
from tests.model import numpy_alexnet
from tests.model.test_alexnet import RECIPES, narrow, numpy_weights, random_images

# Weights and biases of each layer of the whole network at 1,000 classes, by hand from Krizhevsky 2012 §3.5.
WHOLE = {
    "conv1": 96 * 3 * 11 * 11 + 96,
    "conv2": 256 * 48 * 5 * 5 + 256,
    "conv3": 384 * 256 * 3 * 3 + 384,
    "conv4": 384 * 192 * 3 * 3 + 384,
    "conv5": 256 * 192 * 3 * 3 + 256,
    "fc6": 4096 * 256 * 6 * 6 + 4096,
    "fc7": 4096 * 4096 + 4096,
    "fc8": 1000 * 4096 + 1000,
}
# What each ablation changes; None: the layer is gone.
CHANGED: dict[tuple[str, ...], dict[str, int | None]] = {
    ("norms",): {},
    ("overlap",): {},
    ("dropout",): {},
    ("columns",): {  # layers-145-half.cfg
        "conv1": 48 * 3 * 11 * 11 + 48,
        "conv2": 128 * 48 * 5 * 5 + 128,
        "conv3": 192 * 128 * 3 * 3 + 192,
        "conv4": 192 * 192 * 3 * 3 + 192,
        "conv5": 256 * 192 * 3 * 3 + 256,
    },
    ("conv3",): {"conv3": None, "conv4": 384 * 128 * 3 * 3 + 384},
    ("conv4",): {"conv4": None},
    ("conv5",): {"conv5": None, "fc6": 4096 * 384 * 6 * 6 + 4096},
    ("conv3", "conv4", "conv5"): {"conv3": None, "conv4": None, "conv5": None},
    ("columns", "conv3"): {
        "conv1": 48 * 3 * 11 * 11 + 48,
        "conv2": 128 * 48 * 5 * 5 + 128,
        "conv3": None,
        "conv4": 192 * 128 * 3 * 3 + 192,
        "conv5": 256 * 192 * 3 * 3 + 256,
    },
}
TOGETHER = [("columns", "norms", "overlap", "dropout", "conv4"), ("conv3", "conv4", "conv5"), ("columns", "conv5")]


def test_each_ablation_is_counted() -> None:
    assert {name for names in CHANGED for name in names} == set(ABLATIONS)


@pytest.mark.parametrize("ablate", CHANGED)
@pytest.mark.parametrize("recipe", RECIPES)
def test_parameters_are_those_of_the_sums_on_paper(recipe: str, ablate: tuple[str, ...]) -> None:
    with torch.device("meta"):
        config = ModelConfig(recipe=recipe, ablate=ablate)
        net = Towers(config, config.towers)
    expected = {layer: count for layer, count in (WHOLE | CHANGED[ablate]).items() if count is not None}
    counts = dict.fromkeys(expected, 0)
    for name, parameter in net.named_parameters():
        counts[name.split(".")[0]] += parameter.numel()
    assert counts == expected
    assert tuple(expected) == config.layers


@pytest.mark.parametrize("ablate", [*((name,) for name in ABLATIONS), *TOGETHER])
@pytest.mark.parametrize("recipe", RECIPES)
def test_logits_equal_numpys_and_pytorchs_calls(recipe: str, ablate: tuple[str, ...]) -> None:
    net, images = narrow(recipe, ablate=ablate), random_images(2)
    key, weights, pixels = DropoutKey(3, 14, torch.tensor([15, 92])), numpy_weights(net), images.double().numpy()
    with torch.no_grad():
        trained = net(images, key).numpy()
        evaluated = net.eval()(images).numpy()
        x = images.double()
        for name, options in pytorch_calls(net.config):
            given = {
                key: net.state_dict()[value] if isinstance(value, str) else value for key, value in options.items()
            }
            x = getattr(torch.nn.functional, name, getattr(torch.Tensor, name, None))(x, **given)

    def mask(layer: int, units: int) -> np.ndarray:
        return key.mask(layer, units).numpy()

    expected = numpy_alexnet.logits(recipe, weights, pixels, lambda *_: 0.5, ablate)
    assert np.ptp(expected, axis=0).max() > 1e-3  # the images matter
    np.testing.assert_allclose(evaluated, expected, rtol=1e-9)
    np.testing.assert_allclose(x.numpy(), expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(trained, numpy_alexnet.logits(recipe, weights, pixels, mask, ablate), rtol=1e-9)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("part", ["norms", "overlap", "dropout"])
def test_a_part_without_weights_still_matters(recipe: str, part: str) -> None:
    images = random_images(2)
    with torch.no_grad():
        whole, ablated = (narrow(recipe, ablate=names).eval()(images) for names in ((), (part,)))
    assert not torch.allclose(whole, ablated, rtol=1e-3)


def test_names_are_kept_once_in_the_tables_order() -> None:
    config = ModelConfig(ablate=("conv5", "norms", "conv5"))
    assert config.ablate == ("norms", "conv5")
    assert config == ModelConfig(ablate=("norms", "conv5"))


def test_one_column_begins_as_the_recipe_says() -> None:
    state = narrow("original", ablate=("columns",)).state_dict()
    assert state["conv2.weight"].shape == (5, 2, 5, 5)
    assert state["conv5.weight"].std().item() == pytest.approx(3 * 0.03 * math.sqrt(24), rel=0.2)
