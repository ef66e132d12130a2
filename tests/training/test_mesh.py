"""The mesh: a truth table of coordinates, and groups that join the right ranks."""

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from common.errors import UserError
from tests.training.ranks import start
from training.mesh import Mesh, coordinates, make_mesh

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("rank", "world", "model_world", "expected"),
    [
        (0, 1, 1, (0, 0)),
        (2, 4, 1, (2, 0)),  # data axis alone
        (0, 2, 2, (0, 0)),  # one pair
        (1, 2, 2, (0, 1)),
        (2, 4, 2, (1, 0)),  # two pairs
        (5, 8, 2, (2, 1)),
    ],
)
def test_coordinates(rank: int, world: int, model_world: int, expected: tuple[int, int]) -> None:
    assert coordinates(rank, world, model_world) == expected


@pytest.mark.parametrize(("rank", "world", "model_world"), [(0, 1, 2), (1, 3, 2), (4, 4, 1), (-1, 2, 1)])
def test_coordinates_that_do_not_exist(rank: int, world: int, model_world: int) -> None:
    with pytest.raises(UserError):
        coordinates(rank, world, model_world)


def test_alone_there_are_no_groups() -> None:
    mesh = make_mesh("auto", "cpu")
    assert mesh == Mesh(device=torch.device("cpu"))
    assert mesh.is_main and mesh.data_world == mesh.model_world == 1
    assert mesh.data_group is mesh.model_group is mesh.exchange_group is mesh.control_group is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")
def test_cuda_without_a_gpu_is_refused() -> None:
    with pytest.raises(UserError, match="--device cpu"):
        make_mesh("auto", "cuda")


def sums(folder: Path, model_parallel: str) -> int:
    """Each rank contributes 2^rank to each of its groups: the sum tells who is in them."""
    mesh = make_mesh(model_parallel, "cpu")
    totals: dict[str, object] = {"coordinates": [mesh.data_rank, mesh.data_world, mesh.model_rank, mesh.model_world]}
    for name in ("data_group", "model_group", "exchange_group", "control_group"):
        group = getattr(mesh, name)
        if group is None:
            totals[name] = None
            continue
        total = torch.tensor(2**mesh.rank)
        dist.all_reduce(total, group=group)
        totals[name] = int(total)
    (folder / f"{mesh.rank}.json").write_text(json.dumps(totals))
    return 0


@pytest.mark.parametrize(
    ("world", "model_parallel", "all_coordinates", "data", "model"),
    [
        (4, "auto", [[0, 2, 0, 2], [0, 2, 1, 2], [1, 2, 0, 2], [1, 2, 1, 2]], [5, 10, 5, 10], [3, 3, 12, 12]),
        (3, "auto", [[0, 3, 0, 1], [1, 3, 0, 1], [2, 3, 0, 1]], [7] * 3, [None] * 3),
    ],
)
def test_groups_join_towers_pairs_and_all(
    world: int,
    model_parallel: str,
    all_coordinates: list[list[int]],
    data: list[int],
    model: list[int | None],
    tmp_path: Path,
) -> None:
    ranks = start(tmp_path, world, sums, tmp_path, model_parallel)
    assert ranks.wait() == [0] * world, ranks.text()
    totals = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(world)]
    assert [item["coordinates"] for item in totals] == all_coordinates
    assert [item["data_group"] for item in totals] == data
    assert [item["model_group"] for item in totals] == [item["exchange_group"] for item in totals] == model
    assert [item["control_group"] for item in totals] == [2**world - 1] * world
