"""A GPU rank's step on a machine without one: every tensor fake, with the device cuda:0.

What it finds: operands on two devices, and transfers that would wait for the GPU; never what a kernel computes.
A PyTorch that is built for CUDA runs the whole step, forward, loss, backward and update, in float32 and bfloat16. Only
the walk through the graph is this file's own: the engine asks the driver for a context, which no machine without a GPU
has ("hasPrimaryContext expects a valid device index"). A PyTorch without CUDA ends the process where it would record a
fake CUDA tensor ("not linked with support for cuda devices"): there made-up gradients stand for the backward pass.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from dali_pipelines import Batch, Normalize
from dali_pipelines.augmentation import draw
from dali_pipelines.config import BatchSpec
from model import AlexNet, DropoutKey, ModelConfig, make_optimizer
from sharding import Statistics
from training.config import TrainConfig
from training.mesh import Mesh
from training.pairs import PairedLoader, gather_pair_images
from training.step import ParallelNetwork

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="tests/gpu runs the step itself")
BUILT_FOR_CUDA = torch.backends.cuda.is_built()
NEEDS_CUDA_BUILD = pytest.mark.skipif(
    not BUILT_FOR_CUDA, reason="PyTorch without CUDA ends the process where it would record a fake CUDA tensor"
)
GPU = torch.device("cuda", 0)
SAMPLES = 6


class Transfers(TorchDispatchMode):
    """Records what moves between devices, or from a tensor to Python."""

    def __init__(self) -> None:
        super().__init__()
        self.between: list[str] = []
        self.waiting: list[str] = []
        self.convolutions: list[tuple[str, torch.dtype]] = []

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        options = options or {}
        result = function(*arguments, **options)
        name, first = function.__name__, arguments[0] if arguments else None
        if "convolution" in name:
            self.convolutions.append((name.partition(".")[0], first.dtype))
        if name.startswith("_local_scalar_dense") and first.device == GPU:
            self.waiting.append(name)
        if name.startswith(("_to_copy", "copy_")) and isinstance(first, torch.Tensor):
            source = arguments[1] if name.startswith("copy_") else first
            if source.device != result.device:
                self.between.append(f"{source.device.type} → {result.device.type}")
                if not (options.get("non_blocking") or arguments[2:3] == (True,)):
                    self.waiting.append(f"{name} {list(source.shape)} {self.between[-1]}")
        return result


def indexed(tensor: torch.Tensor, index: Any) -> torch.Tensor:
    """`tensor[index]` by operators: Python's brackets ask for a CUDA that this build does not have."""
    chosen: list[torch.Tensor | None] = []
    for part in index if isinstance(index, tuple) else (index,):
        if part is None:
            tensor = tensor.unsqueeze(len(chosen))
        elif isinstance(part, slice):
            start, stop, _ = part.indices(tensor.shape[len(chosen)])
            tensor = tensor.narrow(len(chosen), start, stop - start)
        if isinstance(part, int):
            tensor = tensor.select(len(chosen), part)
        else:
            chosen.append(part if isinstance(part, torch.Tensor) else None)
    return torch.ops.aten.index(tensor, chosen) if any(part is not None for part in chosen) else tensor


@torch.no_grad()
def walk_backward(loss: torch.Tensor) -> None:
    """What autograd's engine does: each node of the graph once, after all that lie above it."""
    assert loss.ndim == 0 and loss.grad_fn is not None
    order: dict[Any, None] = {}

    def visit(node: Any) -> None:
        for below, _ in node.next_functions:
            if below is not None and below not in order:
                visit(below)
        order[node] = None

    visit(loss.grad_fn)
    gradients: dict[Any, list[torch.Tensor | None]] = {loss.grad_fn: [torch.ones_like(loss)]}
    for node in reversed(order):
        arrived = gradients.pop(node)
        if hasattr(node, "variable"):
            (gradient,), parameter = arrived, node.variable
            assert gradient is not None
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
            continue
        made = getattr(node, "apply", node)(*arrived)  # `apply` of those written in Python
        for (below, number), gradient in zip(node.next_functions, made if isinstance(made, tuple) else (made,)):
            if below is not None and gradient is not None:
                inputs = below._input_metadata
                assert gradient.device == inputs[number].device
                gradient = gradient.sum_to_size(inputs[number].shape).to(inputs[number].dtype)  # of what was broadcast
                slots = gradients.setdefault(below, [None] * len(inputs))
                before = slots[number]
                slots[number] = gradient if before is None else before + gradient


def make_up_gradients(loss: torch.Tensor) -> None:
    assert loss.device == GPU and loss.ndim == 0
    for parameter in parameters:
        parameter.grad = torch.empty_like(parameter)


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process group of two that sends nothing, and what else the build or the machine lacks."""

    def copy_(target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        assert target.device == source.device and target.shape == source.shape
        return target

    if not BUILT_FOR_CUDA:
        monkeypatch.setattr(torch.Tensor, "copy_", copy_)
        monkeypatch.setattr(torch.Tensor, "__getitem__", indexed)
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr("model.response_norm.can_compile", lambda: False)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(dist, "all_gather", lambda _parts, _own, group: None)
    monkeypatch.setattr("model.two_tower.exchange_activations", lambda mine, _group: torch.empty_like(mine))
    monkeypatch.setattr(torch.backends.cudnn, "enabled", False)  # C++ asks for its version
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield
    dist.destroy_process_group()
    parameters.clear()


parameters: list[nn.Parameter] = []


def network_on_gpu(config: TrainConfig, towers: int) -> ParallelNetwork:
    """The trainer's network, its parameters fake and on the GPU; one of two towers if `towers` is 2."""
    mesh = Mesh()
    if towers == 2:
        group = dist.group.WORLD
        mesh = Mesh(world=2, model_world=2, model_group=group, exchange_group=group)
    return ParallelNetwork(ModelConfig(recipe=config.recipe, classes=9, width=1 / 16), config, mesh)


def move(network: ParallelNetwork) -> None:
    for module in network.net.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(torch.empty(parameter.shape, device=GPU)))
    parameters.extend(network.net.parameters())
    network.mesh = replace(network.mesh, device=GPU)
    network.optimizer = make_optimizer(network.net, network.config.recipe)


class CpuLoader:
    """What `--decode cpu` makes: uint8 crops in the CPU's memory, of both halves of a pair or of all."""

    steps_per_epoch = 1

    def __init__(self, recipe: Any, statistics: Statistics, own: int) -> None:
        ids = np.arange(SAMPLES)
        self.augmentation = draw(recipe, 0, 0, ids, ids, statistics)
        self._own = own

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Any]:
        count, numbers = self._own, torch.arange(self._own)
        images = torch.empty(count, 224, 224, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
        yield Batch(
            images=images, labels=numbers, ids=numbers, positions=numbers, epoch=0, step=0,
            augmentation=self.augmentation, samples=SAMPLES,
        )  # fmt: skip

    def close(self) -> None:
        """Nothing was opened."""

    def slice_metadata(self, *_unused: int) -> BatchSpec:
        numbers = torch.arange(SAMPLES)
        return BatchSpec(
            labels=numbers, ids=numbers, positions=numbers, epoch=0, step=0,
            augmentation=self.augmentation, samples=SAMPLES,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("backward", "precision"),
    [
        (make_up_gradients, "float32"),
        pytest.param(walk_backward, "float32", marks=NEEDS_CUDA_BUILD),
        pytest.param(walk_backward, "bfloat16", marks=NEEDS_CUDA_BUILD),
    ],
)
@pytest.mark.parametrize("towers", [1, 2])
@pytest.mark.parametrize("recipe", ["original", "paper"])
def test_step_of_a_gpu_rank_mixes_no_devices_and_waits_for_nothing(
    backward: Any,
    recipe: Any,
    towers: int,
    precision: Any,
    stand_ins: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.Tensor, "backward", backward)
    config = TrainConfig(shards=tmp_path, run_dir=tmp_path, recipe=recipe, accumulate=2, precision=precision)
    network = network_on_gpu(config, towers)
    mean = np.full((256, 256, 3), 100.0)
    statistics = Statistics(
        mean_image=mean, rgb_mean=mean[0, 0], rgb_covariance=np.eye(3), eigenvalues=np.ones(3),
        eigenvectors=np.eye(3), images=9,
    )  # fmt: skip
    loader = CpuLoader(recipe, statistics, SAMPLES // towers)
    with FakeTensorMode(allow_non_fake_inputs=True):
        move(network)
        feed = PairedLoader(loader, Normalize(statistics, recipe, GPU), network.mesh)  # type: ignore[arg-type]
        with torch.no_grad(), Transfers() as arrival:
            (batch,) = feed.epoch(0)
        with torch.set_grad_enabled(backward is walk_backward), Transfers() as transfers:
            totals = network.step(batch.images, batch.labels, batch.ids, step=3, samples=SAMPLES)
            sums = totals.to("cpu", non_blocking=True)
    assert {tensor.device for tensor in (batch.images, batch.labels, batch.ids, totals)} == {GPU}
    assert batch.images.dtype == torch.float32 and batch.images.shape == (SAMPLES, 3, 224, 224)
    assert sums.device.type == "cpu" and {value.device for value in network.optimizer.velocities().values()} == {GPU}
    assert transfers.between == ["cuda → cpu"] and not transfers.waiting
    passes = {"convolution"} | ({"convolution_backward"} if backward is walk_backward else set())
    assert set(transfers.convolutions) == {(name, getattr(torch, precision)) for name in passes}
    for parameter in network.net.parameters():
        assert parameter.grad is not None
        assert (parameter.grad.device, parameter.grad.shape) == (GPU, parameter.shape)
    assert set(arrival.between) == {"cpu → cuda"} and len(arrival.between) >= 3
    assert not arrival.waiting


def test_the_walk_through_the_graph_gives_autograds_gradients() -> None:
    net = AlexNet(ModelConfig(classes=9, width=1 / 16))
    images = torch.randn(3, 3, 224, 224, generator=torch.Generator().manual_seed(0))

    def loss() -> torch.Tensor:
        return net(images, DropoutKey(0, 1, torch.arange(3))).square().sum()

    expected = torch.autograd.grad(loss(), list(net.parameters()))
    walk_backward(loss())
    assert len(expected) == 16
    for parameter, gradient in zip(net.parameters(), expected):
        assert parameter.grad is not None and torch.equal(parameter.grad, gradient)


def test_pair_images_of_wrong_number_are_refused_on_a_gpu_too(stand_ins: None) -> None:
    mesh = Mesh(world=2, model_world=2, exchange_group=dist.group.WORLD, device=GPU)
    with FakeTensorMode(), pytest.raises(ValueError, match="should hold 2 of 3 samples"):
        gather_pair_images(torch.empty(1, 3, 224, 224, dtype=torch.uint8, device=GPU), (2, 1), mesh)
