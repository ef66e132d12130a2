"""The unsplit network against NumPy, its counts and shapes, its initial weights, and what it refuses."""

import math
import pickle

import numpy as np
import pytest
import torch
import torch._dynamo.utils
import torch.nn.functional as F
from torch import Tensor

from model import AlexNet, DropoutKey, ModelConfig
from model.alexnet import Towers
from tests.model import numpy_alexnet

RECIPES = ["paper", "original"]
NARROW = 1 / 24  # 2, 5, 8, 8, 5, 85 and 85 a tower


def narrow(recipe: str, classes: int = 7, seed: int = 0, ablate: tuple[str, ...] = ()) -> AlexNet:
    """A narrow network in double precision whose logits are far from equal."""
    net = AlexNet(ModelConfig(recipe=recipe, classes=classes, width=NARROW, ablate=ablate), seed).double()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("bias"):
                parameter.add_(torch.linspace(-0.5, 0.5, parameter.numel()))
            else:
                parameter.mul_(3)
    return net


def random_images(n: int, seed: int = 0) -> Tensor:
    return 60 * torch.randn(n, 3, 224, 224, generator=torch.Generator().manual_seed(seed))


def numpy_weights(net: AlexNet) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy() for name, value in net.state_dict().items()}


@pytest.mark.parametrize("recipe", RECIPES)
def test_evaluation_equals_numpy(recipe: str) -> None:
    net, images = narrow(recipe).eval(), random_images(2)
    expected = numpy_alexnet.logits(recipe, numpy_weights(net), images.double().numpy(), lambda *_: 0.5)
    assert np.abs(expected).max() > 0.1
    assert np.ptp(expected, axis=0).max() > 1e-3  # the images matter
    with torch.no_grad():
        np.testing.assert_allclose(net(images).numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("recipe", RECIPES)
def test_training_equals_numpy_with_the_keys_masks(recipe: str) -> None:
    net, images = narrow(recipe).train(), random_images(2)
    key = DropoutKey(3, 14, torch.tensor([15, 92]))
    weights = numpy_weights(net)
    images64 = images.double().numpy()
    expected = numpy_alexnet.logits(recipe, weights, images64, lambda layer, units: key.mask(layer, units).numpy())
    with torch.no_grad():
        np.testing.assert_allclose(net(images, key).numpy(), expected, rtol=1e-9)
        assert torch.equal(net.eval()(images, key), net(images))


def test_the_papers_network_has_60_965_224_parameters() -> None:
    for net in (AlexNet(ModelConfig(recipe="original")), Towers(ModelConfig(recipe="paper"), towers=2)):
        assert sum(parameter.numel() for parameter in net.parameters()) == 60_965_224
        assert {name: list(parameter.shape) for name, parameter in net.named_parameters()} == {
            "conv1.weight": [96, 3, 11, 11],
            "conv1.bias": [96],
            "conv2.weight": [256, 48, 5, 5],
            "conv2.bias": [256],
            "conv3.weight": [384, 256, 3, 3],
            "conv3.bias": [384],
            "conv4.weight": [384, 192, 3, 3],
            "conv4.bias": [384],
            "conv5.weight": [256, 192, 3, 3],
            "conv5.bias": [256],
            "fc6.weight": [4096, 9216],
            "fc6.bias": [4096],
            "fc7.weight": [4096, 4096],
            "fc7.bias": [4096],
            "fc8.weight": [1000, 4096],
            "fc8.bias": [1000],
        }
        assert list(net.state_dict()) == [name for name, _ in net.named_parameters()]


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_maps_shrink_from_55_to_6(recipe: str) -> None:
    net, seen = AlexNet(ModelConfig(recipe=recipe, width=0.125, classes=4)).eval(), {}
    for layer in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7"):
        getattr(net, layer).register_forward_hook(
            lambda module, inputs, output, layer=layer: seen.update({layer: (inputs[0].shape[1:], output.shape[1:])})
        )
    with torch.no_grad():
        assert net(random_images(1)).shape == (1, 4)
        assert net.features(random_images(3)).shape == (3, 512)
    assert {layer: tuple(map(tuple, shapes)) for layer, shapes in seen.items()} == {
        "conv1": ((3, 227, 227) if recipe == "original" else (3, 228, 228), (12, 55, 55)),
        "conv2": ((12, 27, 27), (32, 27, 27)),
        "conv3": ((32, 13, 13), (48, 13, 13)),
        "conv4": ((48, 13, 13), (48, 13, 13)),
        "conv5": ((48, 13, 13), (32, 13, 13)),
        "fc6": ((32 * 6 * 6,), (512,)),
        "fc7": ((512,), (512,)),
    }


@pytest.mark.parametrize(
    ("recipe", "deviations"),
    [
        ("paper", dict.fromkeys(("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"), 0.01)),
        (
            "original",
            {"conv1": 0.01, "conv2": 0.01, "conv3": 0.03, "conv4": 0.03, "conv5": 0.03}
            | {"fc6": 0.01, "fc7": 0.01, "fc8": 0.01},
        ),
    ],
)
@pytest.mark.parametrize("width", [0.125, 0.25])
def test_initial_weights_and_biases(recipe: str, deviations: dict[str, float], width: float) -> None:
    state = AlexNet(ModelConfig(recipe=recipe, width=width)).state_dict()
    assert len(deviations) == 8
    for layer, deviation in deviations.items():
        weight = state[f"{layer}.weight"].double()
        expected = deviation if layer == "conv1" else deviation / math.sqrt(width)
        assert weight.std().item() == pytest.approx(expected, rel=5 / math.sqrt(2 * weight.numel()))
        assert abs(weight.mean().item()) < 5 * expected / math.sqrt(weight.numel())
        kurtosis = ((weight - weight.mean()) ** 4).mean() / weight.var() ** 2
        assert kurtosis.item() == pytest.approx(3, abs=5 * math.sqrt(24 / weight.numel()))
        bias = 1.0 if layer in ("conv2", "conv4", "conv5", "fc6", "fc7") else 0.0
        assert torch.equal(state[f"{layer}.bias"], torch.full_like(state[f"{layer}.bias"], bias))


def test_the_seed_decides_the_weights() -> None:
    first, again, other = (narrow("paper", seed=seed).state_dict() for seed in (1, 1, 2))
    torch.manual_seed(0)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first if name.endswith("weight"))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    narrow("paper")
    assert torch.equal(torch.get_rng_state(), before)  # PyTorch's own generator is left alone


def test_features_are_fc7_after_relu_as_in_evaluation() -> None:
    net, images = narrow("original"), random_images(2)
    with torch.no_grad():
        features = net.features(images)
        expected = F.linear(features * 0.5, net.fc8.weight, net.fc8.bias)
        torch.testing.assert_close(net.eval()(images), expected, rtol=1e-12, atol=0)
    assert features.min() >= 0
    assert features.max() > 0


@pytest.mark.parametrize("recipe", RECIPES)
def test_an_empty_batch_gives_zero_gradients_for_all(recipe: str) -> None:
    net = narrow(recipe)
    logits = net(random_images(0), DropoutKey(0, 0, torch.arange(0)))
    assert logits.shape == (0, 7)
    logits.sum().backward()
    gradients = [parameter.grad for parameter in net.parameters()]
    assert len(gradients) == 16
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


def test_the_layout_of_the_images_changes_nothing_much() -> None:
    net, images = narrow("original").eval(), random_images(2)
    with torch.no_grad():
        torch.testing.assert_close(
            net(images.contiguous(memory_format=torch.channels_last)), net(images), rtol=1e-9, atol=0
        )


def test_bfloat16_autocast_stays_near_and_keeps_float32_gradients() -> None:
    net = AlexNet(ModelConfig(width=0.125, classes=5))
    images, key = random_images(4), DropoutKey(0, 0, torch.arange(4))
    exact = net(images, key)
    with torch.autocast("cpu", torch.bfloat16):
        rough = net(images, key)
    loss = F.cross_entropy(rough.float(), torch.arange(4))
    loss.backward()
    assert (rough.float() - exact).abs().max() < 0.05 * exact.abs().max()
    assert all(
        p.grad is not None and p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in net.parameters()
    )


def test_bfloat16_weights_take_float32_images() -> None:
    net = AlexNet(ModelConfig(width=0.125, classes=5)).eval()
    with torch.no_grad():
        exact = net(random_images(2))
        rough = net.bfloat16()(random_images(2))
    assert rough.dtype == torch.bfloat16
    assert (rough.float() - exact).abs().max() < 0.05 * exact.abs().max()


def test_it_compiles_into_one_graph_that_serves_every_step() -> None:
    plain, net = narrow("original"), narrow("original")
    net.compile(backend="aot_eager", fullgraph=True)
    images, compiled, graphs = random_images(2), torch._dynamo.utils.counters["stats"], []
    for step in range(3):
        key = DropoutKey(1, step, torch.tensor([step, 5]))
        torch.testing.assert_close(net(images, dropout=key), plain(images, dropout=key), rtol=1e-9, atol=1e-12)
        graphs.append(compiled["unique_graphs"])
    assert graphs[0] > 0
    assert graphs == [graphs[0]] * 3


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"recipe": "resnet"}, "recipe is 'resnet'"),
        ({"classes": 0}, "classes is 0"),
        ({"width": 0.0}, "width is 0.0"),
        ({"width": float("nan")}, "width is nan"),
        ({"width": -1.0}, "width is -1.0"),
        ({"ablate": ("norms", "fc6")}, r"ablate is \['fc6'\], expected some of norms, overlap"),
    ],
)
def test_senseless_configs_are_refused(arguments: dict, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        ModelConfig(**arguments)


def test_every_layer_has_at_least_one_kernel_a_tower() -> None:
    net = AlexNet(ModelConfig(width=0.001, classes=2)).eval()
    assert list(net.conv1.weight.shape) == [2, 3, 11, 11]
    with torch.no_grad():
        assert net(random_images(1)).shape == (1, 2)


def test_wrong_calls_are_refused() -> None:
    net, images = narrow("paper"), random_images(2)
    with pytest.raises(
        ValueError, match=r"training mode: pass dropout=DropoutKey\(seed, step, ids\), or call eval\(\)"
    ):
        net(images)
    with pytest.raises(ValueError, match="2 images but 3 dropout ids"):
        net(images, DropoutKey(0, 0, torch.arange(3)))
    for shape in ((2, 3, 227, 227), (2, 1, 224, 224), (3, 224, 224)):
        with pytest.raises(ValueError, match=r"expected \[n, 3, 224, 224\]"):
            net.eval()(torch.zeros(shape))


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_network_can_be_saved_whole_and_sent_to_a_process(recipe: str) -> None:
    net = narrow(recipe).eval()
    with torch.no_grad():
        torch.testing.assert_close(pickle.loads(pickle.dumps(net))(random_images(2)), net(random_images(2)))
