"""One step is the same step for any number of ranks: weights against plain autograd, in float64."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from model import AlexNet, DropoutKey, ModelConfig, make_optimizer, response_norm
from tests.training.ranks import start
from training.checkpoints import collect
from training.config import TrainConfig
from training.mesh import Mesh, make_mesh
from training.step import ParallelNetwork

pytestmark = pytest.mark.slow

SEED, STEPS = 5, 3
BATCHES = (7, 3)  # 7 is shared unevenly by 2, 3 and 4 ranks; of 3, one of four ranks gets none
CONFIG = ModelConfig(recipe="paper", classes=8, width=1 / 32)


def batch(step: int, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images, labels and ids of a global batch."""
    random = torch.Generator().manual_seed(1000 * size + step)
    images = 60 * torch.randn(size, 3, 224, 224, generator=random, dtype=torch.float64)
    return images, torch.randint(0, 8, (size,), generator=random), torch.arange(size) + 50 * step


def train_steps(out: Path, cases: Sequence[tuple[str, int]], *, compiled: bool = False) -> int:
    """What a rank does for each --model-parallel and --accumulate; rank 0 writes what came of them."""
    torch.set_default_dtype(torch.float64)
    for model_parallel, accumulate in cases:
        mesh = make_mesh(model_parallel, "cpu")
        results = steps_of_each_batch_size(mesh, accumulate, out, compiled)
        if mesh.is_main:
            torch.save(results, out / f"{model_parallel}-{accumulate}.pt")
    return 0


def steps_of_each_batch_size(mesh: Mesh, accumulate: int, out: Path, compiled: bool) -> list[tuple[Any, Any]]:
    """The sums of each step, and on rank 0 the unsplit state, for each size of a batch."""
    results = []
    for size in BATCHES:
        passes = min(accumulate, size)
        config = TrainConfig(
            shards=out, run_dir=out, recipe="paper", seed=SEED, batch_size=size, accumulate=passes, compile=compiled
        )
        network = ParallelNetwork(CONFIG, config, mesh)
        network.distribute()
        begin, end = ((mesh.data_rank + side) * size // mesh.data_world for side in (0, 1))
        sums = []
        for step in range(STEPS):
            images, labels, ids = (values[begin:end] for values in batch(step, size))
            total = network.step(images, labels, ids, step=step, samples=size)
            if mesh.data_group is not None:
                torch.distributed.all_reduce(total, group=mesh.data_group)
            sums.append(total)
        results.append((torch.stack(sums), collect(network)))
    return results


@pytest.fixture(scope="module")
def expected() -> list[tuple[torch.Tensor, dict[str, torch.Tensor], dict[str, torch.Tensor]]]:
    """Sums of losses and wrong answers by step, weights and velocities, by plain autograd on the whole batch."""
    results = []
    torch.set_default_dtype(torch.float64)
    for size in BATCHES:
        net = AlexNet(CONFIG, seed=SEED)
        optimizer, sums = make_optimizer(net, "paper"), []
        for step in range(STEPS):
            images, labels, ids = batch(step, size)
            optimizer.zero_grad()
            logits = net(images, dropout=DropoutKey(SEED, step, ids))
            loss = F.cross_entropy(logits, labels)
            loss.backward()
            optimizer.step()
            order = logits.argsort(dim=1, descending=True)
            wrong = [size - sum(label in row[:best] for label, row in zip(labels, order)) for best in (1, 5)]
            sums.append(torch.tensor([loss.item() * size, *wrong]))
        results.append((torch.stack(sums), net.state_dict(), optimizer.velocities()))
    torch.set_default_dtype(torch.float32)
    return results


@pytest.fixture(scope="module")
def results_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, str, int], Any]:
    """What so many ranks made of a case; one start of them does all of theirs."""

    @functools.cache
    def start_ranks(world: int) -> Path:
        folder = tmp_path_factory.mktemp(f"{world}-ranks")
        ranks = start(folder, world, train_steps, folder, [case[1:] for case in CASES if case[0] == world])
        assert ranks.wait() == [0] * world, ranks.text()
        return folder

    return lambda world, model_parallel, accumulate: torch.load(
        start_ranks(world) / f"{model_parallel}-{accumulate}.pt"
    )


CASES = [  # ranks, --model-parallel, --accumulate
    (1, "1", 1),
    (1, "1", 3),  # a batch in three passes
    (2, "1", 1),  # data ranks alone
    (3, "1", 2),
    (4, "1", 1),
    (2, "2", 1),  # one network on two ranks
    (4, "2", 2),  # two split pairs
]


@pytest.mark.parametrize(
    ("world", "model_parallel", "accumulate"),
    [pytest.param(*case, marks=pytest.mark.xdist_group(f"parallel-{case[0]}")) for case in CASES],
)
def test_any_ranks_and_passes_make_the_same_steps(
    world: int,
    model_parallel: str,
    accumulate: int,
    expected: list[tuple[torch.Tensor, ...]],
    results_of: Callable[[int, str, int], Any],
) -> None:
    results = results_of(world, model_parallel, accumulate)
    assert len(results) == len(expected) == len(BATCHES)
    for (sums, (weights, velocities)), (right_sums, right_weights, right_velocities) in zip(results, expected):
        assert torch.allclose(sums, right_sums, rtol=1e-9, atol=0)
        assert weights.keys() == velocities.keys() == right_weights.keys()
        assert len(weights) == 16
        for name, weight in weights.items():
            assert torch.allclose(weight, right_weights[name], rtol=1e-9, atol=1e-12), name
            assert torch.allclose(velocities[name], right_velocities[name], rtol=1e-9, atol=1e-12), name


def compiled_steps(out: Path, part: str) -> int:
    """`train_steps` with the response norms compiled, as on a GPU, or the whole network, as by --compile."""
    if part == "norms":
        response_norm.implementation = lambda _device: "compiled"
        response_norm._compiled = functools.cache(functools.partial(torch.compile, backend="eager", dynamic=True))
    elif part == "network":
        torch.nn.Module.compile = functools.partialmethod(torch.nn.Module.compile, backend="eager")  # type: ignore[method-assign, assignment]
    return train_steps(out, [("1", 1)], compiled=part == "network")


@pytest.mark.parametrize("part", ["norms", "network"])
def test_compiled_inside_ddp_makes_the_same_steps(
    part: str, expected: list[tuple[torch.Tensor, ...]], tmp_path: Path
) -> None:
    """Dynamo sees the DDP forward around what it compiles, and leaves it whole."""
    ranks = start(tmp_path, 2, compiled_steps, tmp_path, part)
    assert ranks.wait() == [0, 0], ranks.text()
    results = torch.load(tmp_path / "1-1.pt")
    assert len(results) == len(BATCHES)
    for (sums, (weights, _)), (right_sums, right_weights, _) in zip(results, expected):
        assert torch.allclose(sums, right_sums, rtol=1e-9, atol=0)
        assert len(weights) == 16
        for name, weight in weights.items():
            assert torch.allclose(weight, right_weights[name], rtol=1e-9, atol=1e-12), name


def test_bfloat16_is_close_and_leaves_the_weights_float32(tmp_path: Path) -> None:
    losses = {}
    for precision in ("float32", "bfloat16"):
        config = TrainConfig(shards=tmp_path, run_dir=tmp_path, seed=SEED, precision=precision)
        network = ParallelNetwork(CONFIG, config, make_mesh("auto", "cpu"))
        images, labels, ids = batch(0, 7)
        total = network.step(images.float(), labels, ids, step=0, samples=7)
        losses[precision] = float(total[0])
        assert all(weight.dtype == torch.float32 for weight in network.net.state_dict().values())
        assert network.logits(images.float()).dtype == torch.float32
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.02)
