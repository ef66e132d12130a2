"""Checkpoints: whole or not at all, any layout from any other, and every damage named."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.files import hardlink
from model import AlexNet, ModelConfig
from model.checkpoint import (
    FORMAT,
    CheckpointError,
    find_checkpoint,
    load_checkpoint,
    load_network,
    save_checkpoint,
)
from tests.handmade import checkpoint_state
from tests.training.ranks import start
from training.checkpoints import collect, restore
from training.config import TrainConfig
from training.mesh import make_mesh
from training.step import ParallelNetwork

CONFIG = ModelConfig(recipe="original", classes=3, width=1 / 32)


@pytest.fixture
def state(tmp_path: Path) -> dict[str, Any]:
    """A whole state of a small network, with velocities that are not zero."""
    config = TrainConfig(shards=tmp_path, run_dir=tmp_path)
    weights, velocities = numbered(ParallelNetwork(CONFIG, config, make_mesh("1", "cpu")))
    return checkpoint_state(AlexNet(CONFIG), model=weights, optimizer=velocities, epoch=1, step=5)


def numbered(network: ParallelNetwork) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Unsplit weights and velocities in which each number occurs once."""
    collected = collect(network)
    assert collected is not None
    for part in collected:
        for index, tensor in enumerate(part.values()):
            tensor.copy_((torch.arange(tensor.numel()) / 2**20 + index).view(tensor.shape))
    return collected


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys() and len(one) == 16
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def test_what_is_saved_is_loaded_and_no_part_file_stays(state: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "last.pt"
    save_checkpoint(path, state)
    loaded = load_checkpoint(path)
    assert_equal(loaded["model"], state["model"])
    assert_equal(loaded["optimizer"], state["optimizer"])
    assert (loaded["epoch"], loaded["step"]) == (1, 5)
    assert [item.name for item in path.parent.iterdir()] == ["last.pt"]
    network = load_network(loaded)
    assert not network.training
    assert_equal(network.state_dict(), state["model"])


def change_layout(folder: Path, model_parallel: str) -> int:
    """Load a checkpoint into this layout, change each number by a step that depends on itself only, save it again."""
    mesh = make_mesh(model_parallel, "cpu")
    config = TrainConfig(shards=folder, run_dir=folder)
    network = ParallelNetwork(CONFIG, config, mesh)
    restore(load_checkpoint(folder / "before.pt"), network)
    with torch.no_grad():
        for parameter in network.net.parameters():
            parameter.mul_(2)
        for velocity in network.optimizer.velocities().values():
            velocity.mul_(-1)
    collected = collect(network)
    if mesh.is_main:
        assert collected is not None
        weights, velocities = collected
        save_checkpoint(
            folder / "after.pt", load_checkpoint(folder / "before.pt") | {"model": weights, "optimizer": velocities}
        )
    return 0


def test_four_ranks_in_pairs_and_one_unsplit_read_each_other(state: dict[str, Any], tmp_path: Path) -> None:
    """Unsplit file → two pairs → file → one rank: weights and velocities come back, in the unsplit layout."""
    save_checkpoint(tmp_path / "before.pt", state)
    ranks = start(tmp_path, 4, change_layout, tmp_path, "2")
    assert ranks.wait() == [0] * 4, ranks.text()
    after = load_checkpoint(tmp_path / "after.pt")
    assert_equal(after["model"], {name: 2 * tensor for name, tensor in state["model"].items()})
    assert_equal(after["optimizer"], {name: -tensor for name, tensor in state["optimizer"].items()})
    network = ParallelNetwork(CONFIG, TrainConfig(shards=tmp_path, run_dir=tmp_path), make_mesh("1", "cpu"))
    restore(after, network)
    assert_equal(network.net.state_dict(), after["model"])
    assert_equal(network.optimizer.velocities(), after["optimizer"])


def flipped(content: bytes) -> bytes:
    """One bit of one weight turned round: the 1.0 + 2**-20 that `numbered` puts second into the second parameter."""
    position = content.index(np.array([1.0, 1.0 + 2**-20], np.float32).tobytes()) + 4
    return content[:position] + bytes([content[position] ^ 16]) + content[position + 1 :]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-200], "cut short or no checkpoint"),
        (lambda content: content[:1000], "cut short or no checkpoint"),
        (lambda content: b"", "cut short or no checkpoint"),
        (lambda content: b"not a checkpoint" * 100, "cut short or no checkpoint"),
        (flipped, "damaged: the checksum of its part .* does not fit"),  # torch alone would read it
    ],
)
def test_damaged_files_are_named(damage: Any, message: str, state: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, state)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=f"{path} is {message}"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("foreign", "message"),
    [
        ({"model": {}}, "it has no format number"),
        ([1, 2], "it has no format number"),
        ({"format": 1}, r"checkpoint format 1, this program reads 2 \(0.1 wrote 1\)"),
        ({"format": FORMAT, "model": {}}, "it lacks best, data_config, dataset"),
    ],
)
def test_foreign_files_are_named(foreign: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    torch.save(foreign, path)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)


class Trap:
    """A pickle that would write a file if it were trusted."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return (os.mkdir, (str(self.target),))


def test_code_in_a_checkpoint_is_not_run(state: dict[str, Any], tmp_path: Path) -> None:
    path, target = tmp_path / "last.pt", tmp_path / "trapped"
    torch.save(state | {"versions": Trap(target)}, path)
    with pytest.raises(CheckpointError, match="is no checkpoint of this program"):
        load_checkpoint(path)
    assert not target.exists()


def test_missing_files_are_named(tmp_path: Path, state: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint .*none\.pt"):
        load_checkpoint(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="cannot read"):
        load_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="it has none at all; train first"):
        find_checkpoint(tmp_path)
    save_checkpoint(tmp_path / "checkpoints" / "last.pt", state)
    assert find_checkpoint(tmp_path) == tmp_path / "checkpoints" / "last.pt"
    with pytest.raises(CheckpointError, match=r"has no checkpoint checkpoints/best\.pt; it has last\.pt"):
        find_checkpoint(tmp_path, "best")


def test_states_with_missing_or_unknown_keys_are_not_written(state: dict[str, Any], tmp_path: Path) -> None:
    for wrong in (state | {"extra": 1}, {name: value for name, value in state.items() if name != "step"}):
        with pytest.raises(CheckpointError, match=r"extra|step"):
            save_checkpoint(tmp_path / "last.pt", wrong)
    assert not list(tmp_path.glob("*"))


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """No file grows beyond `size` bytes meanwhile."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_full_disk_leaves_the_old_checkpoint(state: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, state)
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=f"cannot write {path}.*bytes are free"), small_disk(len(before) // 2):
        save_checkpoint(path, state | {"step": 6})
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["last.pt"]


def test_second_names_outlive_the_first(state: dict[str, Any], tmp_path: Path) -> None:
    last, best = tmp_path / "last.pt", tmp_path / "best.pt"
    save_checkpoint(last, state)
    hardlink(last, best)
    save_checkpoint(last, state | {"step": 6})
    assert load_checkpoint(best)["step"] == 5 and load_checkpoint(last)["step"] == 6
    hardlink(last, best)
    assert load_checkpoint(best)["step"] == 6
    assert sorted(item.name for item in tmp_path.iterdir()) == ["best.pt", "last.pt"]


def test_names_are_copies_where_links_cannot_be_made(
    state: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr("common.files.os.link", refuse)
    save_checkpoint(tmp_path / "last.pt", state)
    hardlink(tmp_path / "last.pt", tmp_path / "best.pt")
    assert (tmp_path / "best.pt").read_bytes() == (tmp_path / "last.pt").read_bytes()
    assert (tmp_path / "best.pt").stat().st_nlink == 1
