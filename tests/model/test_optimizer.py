"""The update rule against NumPy, across changes of rate, and against torch.optim.SGD where they must differ."""

import numpy as np
import pytest
import torch
from torch import nn

from model import AlexNet, ModelConfig, make_optimizer, make_schedule
from model.optimizer import RecipeSGD
from tests.model.operations import Operations


@pytest.fixture
def net() -> AlexNet:
    return AlexNet(ModelConfig(recipe="original", classes=3, width=1 / 24)).double()


def random_gradients(net: nn.Module, steps: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(5)
    return [
        {name: torch.randn(p.shape, dtype=p.dtype, generator=generator) for name, p in net.named_parameters()}
        for _ in range(steps)
    ]


def numpy_update(
    weights: dict[str, np.ndarray], gradients: list[dict[str, torch.Tensor]], rates: list[dict[str, float]]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """v ← 0.9 v − 0.0005 ε w − ε ∇, w ← w + v, one parameter after the other; ε = 0 changes nothing."""
    velocity = {name: np.zeros_like(value) for name, value in weights.items()}
    for gradient, rate in zip(gradients, rates, strict=True):
        for name in weights:
            epsilon, decay = rate[name], 0.0005 if "weight" in name else 0.0
            if epsilon == 0:
                continue
            velocity[name] = 0.9 * velocity[name] - decay * epsilon * weights[name] - epsilon * gradient[name].numpy()
            weights[name] = weights[name] + velocity[name]
    return weights, velocity


@pytest.mark.parametrize(
    ("recipe", "epochs", "rate_scale"),
    [
        ("original", [20, 21, 22, 23, 49, 50, 66, 67, 71, 77], 1.0),  # over every change; conv1 frozen in the last two
        ("original", [70, 70, 70, 71, 71, 71, 71, 71, 71, 71], 2.0),
        ("paper", list(range(10)), 1.0),
        ("paper", list(range(10)), 0.5),
    ],
)
def test_ten_steps_equal_numpy_across_a_change_of_rate(
    net: AlexNet, recipe: str, epochs: list[int], rate_scale: float
) -> None:
    optimizer, schedule = make_optimizer(net, recipe, rate_scale), make_schedule(recipe, 93)
    gradients, rates = random_gradients(net, 10), []
    start = {name: p.detach().numpy().copy() for name, p in net.named_parameters()}
    for step, (epoch, gradient) in enumerate(zip(epochs, gradients, strict=True)):
        schedule.apply(optimizer, epoch)
        rates.append({name: rate_scale * rate for name, rate in schedule.rates(epoch).items()})
        for name, parameter in net.named_parameters():
            parameter.grad = gradient[name].clone()
        optimizer.step()
        if recipe == "paper" and step == 4:
            for _ in range(10):
                schedule.observe({"top1_error": 0.5})
    assert len({rate["fc8.weight"] for rate in rates}) > 1 or epochs[0] == 70
    weights, velocity = numpy_update(start, gradients, rates)
    assert len(weights) == 16
    for name, parameter in net.named_parameters():
        np.testing.assert_allclose(parameter.detach().numpy(), weights[name], rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(optimizer.velocities()[name].numpy(), velocity[name], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("recipe", ["paper", "original"])
def test_an_update_is_a_few_operations_and_the_same_bits(net: AlexNet, recipe: str) -> None:
    net.float()
    optimizer = make_optimizer(net, recipe)
    expected = {}
    for step, gradients in enumerate(random_gradients(net, 3)):
        for group in optimizer.param_groups:
            name, (parameter,) = group["name"], group["params"]
            parameter.grad = gradients[name].float()
            velocity = optimizer.velocities()[name].clone() if step else torch.zeros_like(parameter)
            velocity.mul_(0.9).add_(parameter.grad, alpha=-group["lr"])
            if group["weight_decay"]:
                velocity.add_(parameter.detach(), alpha=-group["lr"] * group["weight_decay"])
            expected[name] = parameter.detach() + velocity
        with Operations() as operations:
            optimizer.step()
        assert len(operations.names) == 4 + 3  # of the weights, of the biases, which do not decay
        assert all(torch.equal(parameter, expected[name]) for name, parameter in net.named_parameters())


def test_the_first_rates_are_the_recipes(net: AlexNet) -> None:
    for recipe, bias in (("paper", 0.01), ("original", 0.02)):
        groups = {group["name"]: group for group in make_optimizer(net, recipe, 3.0).param_groups}
        assert len(groups) == 16
        assert {group["lr"] for name, group in groups.items() if "weight" in name} == {3.0 * 0.01}
        assert {group["lr"] for name, group in groups.items() if "bias" in name} == {3.0 * bias}


def test_decay_is_on_the_weights_only(net: AlexNet) -> None:
    optimizer = make_optimizer(net, "paper")
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in net.named_parameters():
        factor = 1 - 0.0005 * 0.01 if name.endswith("weight") else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor, rtol=1e-13, atol=0)


def one_parameter(value: float) -> tuple[nn.Parameter, RecipeSGD]:
    parameter = nn.Parameter(torch.tensor([value], dtype=torch.float64))
    return parameter, RecipeSGD([{"params": [parameter], "name": "fc8.bias", "lr": 0.1}])


def test_a_rate_of_zero_freezes_without_coasting_and_forgets_nothing() -> None:
    parameter, optimizer = one_parameter(1.0)
    positions = []
    for rate in (0.1, 0.0, 0.0, 0.1):
        optimizer.param_groups[0]["lr"] = rate
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        positions.append(parameter.item())
    assert positions == pytest.approx([0.9, 0.9, 0.9, 0.9 - 0.09 - 0.1], abs=1e-15)


def test_it_differs_from_pytorchs_sgd_only_after_a_change_of_rate() -> None:
    parameter, optimizer = one_parameter(0.0)
    other = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    sgd = torch.optim.SGD([other], lr=0.1, momentum=0.9)
    for step in range(4):
        if step == 3:
            optimizer.param_groups[0]["lr"] = sgd.param_groups[0]["lr"] = 0.01
        for moved, by in ((parameter, optimizer), (other, sgd)):
            moved.grad = torch.ones_like(moved)
            by.step()
        if step == 2:
            assert parameter.item() == pytest.approx(other.item(), abs=1e-15)
    velocity = -0.1 * (1 + 1.9 + 2.71) + (0.9 * -0.271 - 0.01)
    assert parameter.item() == pytest.approx(velocity, abs=1e-12)
    assert abs(parameter.item() - other.item()) > 0.1


def test_a_parameter_without_a_gradient_is_not_updated() -> None:
    parameter, optimizer = one_parameter(1.0)
    optimizer.step()
    assert parameter.item() == 1.0
    (parameter**2).sum().backward()
    optimizer.step()
    assert parameter.item() == pytest.approx(1.0 - 0.1 * 2.0)


def test_a_wrapped_network_has_the_same_names(net: AlexNet) -> None:
    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self._orig_mod = module

    names = [group["name"] for group in make_optimizer(Wrapper(Wrapper(net)), "original").param_groups]
    assert names == [name for name, _ in net.named_parameters()]


@pytest.mark.parametrize("rate_scale", [0.0, -1.0, float("inf"), float("nan")])
def test_a_senseless_scale_is_refused(net: AlexNet, rate_scale: float) -> None:
    with pytest.raises(ValueError, match="rate_scale is"):
        make_optimizer(net, "paper", rate_scale)
