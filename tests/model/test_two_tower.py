"""The network split over two real processes equals the unsplit one: logits, loss, gradients, features, ablations."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo.utils
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from model import AlexNet, DropoutKey, ModelConfig, TwoTowerAlexNet, join_state, split_state
from tests.training.ranks import start

pytestmark = pytest.mark.slow

NARROW = {"classes": 5, "width": 1 / 24}
TASKS: list[tuple[dict[str, Any], torch.dtype]] = [
    ({"recipe": "original"}, torch.float64),
    ({"recipe": "paper"}, torch.float64),
    ({"recipe": "original"}, torch.float32),
    ({"recipe": "original", "ablate": ("norms", "overlap", "dropout")}, torch.float64),
    ({"recipe": "original", "ablate": ("conv3",)}, torch.float64),
    ({"recipe": "paper", "ablate": ("conv4",)}, torch.float64),
    ({"recipe": "paper", "ablate": ("conv5",)}, torch.float64),
]
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
Results = dict[str, dict[str, Tensor]]


def passes(net: AlexNet | TwoTowerAlexNet) -> Results:
    """A training pass over three images, one over none, and an evaluation; tensors of each by name."""
    generator = torch.Generator().manual_seed(2012)
    images = 60 * torch.randn(3, 3, 224, 224, generator=generator)
    labels, ids = torch.randint(5, (3,), generator=generator), torch.randint(1_281_167, (3,), generator=generator)
    results: Results = {"weights": {name: value.clone() for name, value in net.state_dict().items()}}
    for name, count in (("full", 3), ("empty", 0)):
        net.zero_grad()
        logits = net(images[:count], DropoutKey(3, 14, ids[:count]))
        F.cross_entropy(logits, labels[:count], reduction="sum").backward()
        results[name] = {"logits": logits.detach()}
        results[f"gradients {name}"] = {
            parameter: value.grad.clone() for parameter, value in net.named_parameters() if value.grad is not None
        }
    net.eval()
    with torch.no_grad():
        results["evaluation"] = {"logits": net(images), "features": net.features(images)}
    return results


def run_rank(folder: Path) -> int:
    """What each of the two processes does: every task on its tower."""
    dist.init_process_group("gloo")
    group, rank = dist.group.WORLD, dist.get_rank()
    assert group is not None
    results = [
        passes(TwoTowerAlexNet(ModelConfig(**NARROW, **options), group, seed=3).to(dtype)) for options, dtype in TASKS
    ]
    torch.save(results, folder / f"rank-{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
    return 0


def run_compiled_rank(folder: Path) -> int:
    """One training pass of a tower that is compiled, beside the same tower that is not."""
    dist.init_process_group("gloo")
    group, rank = dist.group.WORLD, dist.get_rank()
    assert group is not None
    images, key = 60 * torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1)), torch.arange(2)
    results = []
    for compiled in (False, True):
        net = TwoTowerAlexNet(ModelConfig(**NARROW), group, seed=3).double()
        if compiled:
            net.compile(backend="aot_eager")
        logits = net(images, DropoutKey(3, 14, key))
        logits.square().sum().backward()
        gradients = {name: value.grad for name, value in net.named_parameters() if value.grad is not None}
        results.append({"logits": logits.detach(), **gradients})
    counters = torch._dynamo.utils.counters
    breaks = {"graphs": counters["stats"]["unique_graphs"], "breaks": sum(counters["graph_break"].values())}
    torch.save((results, breaks), folder / f"rank-{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
    return 0


def assert_near(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float, what: str) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == value.shape, f"{what} {name}"
        if value.numel():
            error = (found[name] - value).abs().max() / (value.abs().max().item() or 1.0)
            assert error <= tolerance, f"{what} {name}: off by {error:.2e}"


def test_a_pair_equals_the_unsplit_network(tmp_path: Path) -> None:
    unsplit = [passes(AlexNet(ModelConfig(**NARROW, **options), seed=3).to(dtype)) for options, dtype in TASKS]
    ranks = start(tmp_path, 2, run_rank, tmp_path)
    assert ranks.wait() == [0, 0], ranks.text()
    towers = [torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1)]
    for (options, dtype), expected, first, second in zip(TASKS, unsplit, *towers, strict=True):
        what = f"{options}:"
        assert len(expected["weights"]) == 16 - 2 * sum(name.startswith("conv") for name in options.get("ablate", ()))
        assert max(value.abs().max().item() for value in expected["gradients full"].values()) > 1e-3
        for name in ("weights", "gradients full", "gradients empty"):
            assert_near(join_state([first[name], second[name]]), expected[name], TOLERANCE[dtype], what)
        for name in ("full", "empty", "evaluation"):
            assert torch.equal(first[name]["logits"], second[name]["logits"])
            assert_near(first[name], expected[name], TOLERANCE[dtype], what)
            assert_near(second[name], expected[name], TOLERANCE[dtype], what)


def test_compiled_a_tower_is_one_graph_without_breaks(tmp_path: Path) -> None:
    ranks = start(tmp_path, 2, run_compiled_rank, tmp_path)
    assert ranks.wait() == [0, 0], ranks.text()
    for rank in (0, 1):
        (plain, compiled), counts = torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True)
        assert counts == {"graphs": 1, "breaks": 0}  # the exchanges of activations are part of it
        assert len(plain) == 17
        assert_near(compiled, plain, 1e-12, "compiled")


def test_one_column_cannot_be_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "get_world_size", lambda _group: 2)
    with pytest.raises(ValueError, match="without columns has one tower, which two processes cannot share"):
        TwoTowerAlexNet(ModelConfig(**NARROW, ablate=("columns",)), dist.ProcessGroup(0, 2))


def test_splitting_and_joining_are_inverse_and_cut_where_the_towers_do() -> None:
    config = ModelConfig(classes=5, width=1 / 24)
    whole = AlexNet(config, seed=1).state_dict()
    towers = [split_state(whole, tower) for tower in (0, 1)]
    assert {name: list(value.shape) for name, value in towers[0].items()} == {
        "conv1.weight": [2, 3, 11, 11],
        "conv1.bias": [2],
        "conv2.weight": [5, 2, 5, 5],
        "conv2.bias": [5],
        "conv3.weight": [8, 10, 3, 3],
        "conv3.bias": [8],
        "conv4.weight": [8, 8, 3, 3],
        "conv4.bias": [8],
        "conv5.weight": [5, 8, 3, 3],
        "conv5.bias": [5],
        "fc6.weight": [85, 10 * 36],
        "fc6.bias": [85],
        "fc7.weight": [85, 170],
        "fc7.bias": [85],
        "fc8.weight": [5, 85],
        "fc8.bias": [5],
    }
    assert torch.equal(towers[1]["conv4.weight"], whole["conv4.weight"][8:])
    assert torch.equal(towers[1]["fc8.weight"], whole["fc8.weight"][:, 85:])
    joined = join_state(towers)
    assert list(joined) == list(whole)
    assert all(torch.equal(joined[name], whole[name]) for name in whole)
    towers[0]["fc8.bias"].add_(1.0)
    assert torch.equal(joined["fc8.bias"], whole["fc8.bias"])  # copies, not views


def test_what_cannot_be_split_is_named() -> None:
    with pytest.raises(ValueError, match=r"no parameter of this network is called 'conv9\.weight'"):
        split_state({"conv9.weight": torch.zeros(4)}, 0)
    with pytest.raises(ValueError, match=r"fc6\.bias has shape \[3\]"):
        split_state({"fc6.bias": torch.zeros(3)}, 0)
