"""The network split over real processes equals the unsplit one: logits, loss, gradients, ten steps, dropout and all."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model import AlexNet, DropoutKey, ModelConfig, join_state, make_optimizer, make_schedule, split_state

ROOT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("split_worker.py")
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
# Over a change of rate of `original`, the last two steps with a frozen conv1.
BATCH = 3
EPOCHS = [0, 0, 0, 21, 22, 22, 22, 22, 71, 71]


def make_task(recipe: str, dtype: torch.dtype, parts: list[int]) -> dict[str, Any]:
    """Ten global batches of three images for a narrow network; pair d of the pairs takes parts[d]:parts[d + 1]."""
    generator = torch.Generator().manual_seed(2012)
    steps = len(EPOCHS)
    return {
        "config": {"recipe": recipe, "classes": 5, "width": 1 / 24},
        "seed": 3,
        "dtype": dtype,
        "parts": parts,
        "epochs": EPOCHS,
        "images": 60 * torch.randn(steps, BATCH, 3, 224, 224, generator=generator),
        "labels": torch.randint(5, (steps, BATCH), generator=generator),
        "ids": torch.randint(1_281_167, (steps, BATCH), generator=generator),
    }


def run_split(tasks: list[dict[str, Any]], world: int, folder: Path) -> list[list[dict[str, Any]]]:
    """What each of `world` processes got in each task: results[task][rank]."""
    torch.save((world, tasks), folder / "tasks.pt")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(folder), str(rank)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        for number, rank in enumerate(ranks):
            _, errors = rank.communicate(timeout=120)
            assert rank.returncode == 0, f"rank {number}: {errors}"
    finally:
        for rank in ranks:
            rank.kill()
    ranks = [torch.load(folder / f"rank-{number}.pt", weights_only=True) for number in range(world)]
    return [[rank[number] for rank in ranks] for number in range(len(tasks))]


def run_unsplit(task: dict[str, Any]) -> dict[str, Any]:
    """The same training in this process by the unsplit network, on the whole global batch."""
    net = AlexNet(ModelConfig(**task["config"]), seed=task["seed"]).to(task["dtype"])
    start = {name: value.clone() for name, value in net.state_dict().items()}
    optimizer, schedule = make_optimizer(net, net.config.recipe), make_schedule(net.config.recipe, 93)
    steps = []
    for step, epoch in enumerate(task["epochs"]):
        schedule.apply(optimizer, epoch)
        optimizer.zero_grad()
        logits = net(task["images"][step], DropoutKey(task["seed"], step, task["ids"][step]))
        loss = F.cross_entropy(logits, task["labels"][step])
        loss.backward()
        gradients = {name: value.grad.clone() for name, value in net.named_parameters() if value.grad is not None}
        steps.append({"logits": logits.detach(), "loss": loss.detach(), "gradients": gradients})
        optimizer.step()
    net.eval()
    with torch.no_grad():
        evaluation = {"logits": net(task["images"][0]), "features": net.features(task["images"][0])}
    return {
        "start": start,
        "steps": steps,
        "weights": net.state_dict(),
        "velocities": optimizer.velocities(),
        "evaluation": evaluation,
    }


def assert_near(found: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    assert found.shape == expected.shape, what
    if expected.numel():
        error = (found - expected).abs().max().item()
        assert error <= tolerance * max(1.0, expected.abs().max().item()), f"{what}: off by {error:.2e}"


def assert_all_near(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float, what: str) -> None:
    assert len(expected) == 16
    assert set(found) == set(expected)
    for name, value in expected.items():
        scale = value.abs().max().item() or 1.0
        assert_near(found[name] / scale, value / scale, tolerance, f"{what} {name}")


def assert_equal_training(ranks: list[dict[str, Any]], whole: dict[str, Any], parts: list[int], limit: float) -> None:
    pairs = len(ranks) // 2
    for pair in range(pairs):
        towers = ranks[2 * pair : 2 * pair + 2]
        for name, value in join_state([tower["start"] for tower in towers]).items():
            assert torch.equal(value, whole["start"][name])
        for number, (first, second, expected) in enumerate(
            zip(towers[0]["steps"], towers[1]["steps"], whole["steps"], strict=True)
        ):
            assert torch.equal(first["logits"], second["logits"])
            logits = expected["logits"][parts[pair] : parts[pair + 1]]
            assert_near(first["logits"], logits, limit, f"logits of step {number}")
            joined = join_state([first["gradients"], second["gradients"]])
            assert_all_near(joined, expected["gradients"], limit, f"gradient in step {number}")
        for what in ("weights", "velocities"):
            assert_all_near(join_state([tower[what] for tower in towers]), whole[what], limit, what)
        for tower in towers:
            assert_near(tower["evaluation"]["logits"], whole["evaluation"]["logits"], limit, "logits")
            assert_near(tower["evaluation"]["features"], whole["evaluation"]["features"], limit, "features")
            assert tower["evaluation"]["empty"].shape == (0, 5)
    for number, expected in enumerate(whole["steps"]):
        loss = sum(ranks[2 * pair]["steps"][number]["loss"] for pair in range(pairs))
        assert_near(torch.as_tensor(loss), expected["loss"], limit, f"loss of step {number}")


def check(world: int, tasks: list[dict[str, Any]], folder: Path) -> None:
    """All tasks in one start of the processes, which costs the most; unsplit first, to fill numba's cache."""
    wholes = [run_unsplit(task) for task in tasks]
    results = run_split(tasks, world, folder)
    for task, ranks, whole in zip(tasks, results, wholes, strict=True):
        losses = [step["loss"].item() for step in whole["steps"]]
        assert max(losses) - min(losses) > 0.01
        assert len(ranks) == world
        assert_equal_training(ranks, whole, task["parts"], TOLERANCE[task["dtype"]])


def test_a_pair_equals_the_unsplit_network(tmp_path: Path) -> None:
    settings = [("original", torch.float64), ("paper", torch.float64), ("original", torch.float32)]
    check(2, [make_task(recipe, dtype, [0, BATCH]) for recipe, dtype in settings], tmp_path)


def test_two_pairs_equal_the_unsplit_network(tmp_path: Path) -> None:
    tasks = [
        make_task("original", torch.float64, [0, 2, BATCH]),  # shares that differ by one
        make_task("paper", torch.float32, [0, 0, BATCH]),  # a pair with nothing to do
    ]
    check(4, tasks, tmp_path)


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
