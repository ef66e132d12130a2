"""The state of a run: what this rank holds in, the unsplit checkpoint out, and back on any number of ranks.

`CheckpointManager` writes checkpoints; `find_start` and `read_matching` say which one a start goes on from.
"""

import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from common.command_line import flag
from common.errors import UserError
from common.files import hardlink
from model.checkpoint import (
    BEST,
    FOLDER,
    LAST,
    PREVIOUS,
    REPLACED,
    CheckpointError,
    finish_save,
    load_checkpoint,
    replace_checkpoint,
    save_checkpoint,
)
from model.schedule import Schedule
from model.two_tower import join_state, split_state
from training.config import TrainConfig
from training.mesh import Mesh
from training.run_folder import CONFIG
from training.step import ParallelNetwork

logger = logging.getLogger(__name__)
Tensors = dict[str, torch.Tensor]


@dataclass(kw_only=True)
class TrainState:
    """Where a run is. `epoch` is the one going on, from 0: its validation is not done yet. `step` counts steps done."""

    epoch: int = 0
    step: int = 0
    best: float | None = None


def collect(network: ParallelNetwork) -> tuple[Tensors, Tensors] | None:
    """Unsplit weights and velocities on rank 0, None elsewhere; called by all ranks. Tensors on the CPU."""
    mesh = network.mesh
    weights, velocities = (
        {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
        for tensors in (network.net.state_dict(), network.optimizer.velocities())
    )
    if mesh.model_world == 1 or mesh.data_rank != 0:
        return (weights, velocities) if mesh.is_main else None
    box: list[Any] = [weights, velocities]
    if mesh.is_main:
        dist.recv_object_list(box, src=1, group=mesh.control_group)
        return join_state([weights, box[0]]), join_state([velocities, box[1]])
    dist.send_object_list(box, dst=0, group=mesh.control_group)
    return None


def restore(checkpoint: dict[str, Any], network: ParallelNetwork) -> None:
    """Put the weights and velocities of a checkpoint of this network into this rank's."""
    weights, velocities = checkpoint["model"], checkpoint["optimizer"]
    if network.mesh.model_world > 1:
        weights, velocities = (split_state(state, network.mesh.model_rank) for state in (weights, velocities))
    network.net.load_state_dict(weights)
    for name, velocity in network.optimizer.velocities().items():
        velocity.copy_(velocities[name])


def differences(checkpoint: dict[str, Any], config: TrainConfig, dataset: dict[str, Any]) -> list[str]:
    """One phrase for each point in which `checkpoint` is of another training than this config on this data set."""
    saved, before = checkpoint["train_config"], checkpoint["dataset"]
    options = [(name, saved.get(name), value) for name, value in config.identity().items()]
    phrases = [f"{flag(name)} was {old}, is {new}" for name, old, new in options if old != new]
    if before["fingerprint"] != dataset["fingerprint"]:
        samples = f"{before['samples']:,} images in {len(before['classes'])} classes from {before['shards']}"
        now = f"{dataset['samples']:,} in {len(dataset['classes'])} from {dataset['shards']}"
        phrases.append(f"the training images were others ({samples}; now {now})")
    return phrases


@dataclass
class CheckpointManager:
    """Writes a run's checkpoints. `constant`: the parts of a checkpoint that do not change during a run."""

    config: TrainConfig
    constant: dict[str, Any]
    network: ParallelNetwork
    schedule: Schedule
    before_writing: Callable[[], None] | None = None  # puts the log of the steps done on the disk first
    last_valid: Path | None = None  # the file that is known to be whole: read or written by this process
    saved_at: float = field(default_factory=time.monotonic)

    def path(self, name: str) -> Path:
        """Where the checkpoint called `name` lies."""
        return self.config.run_dir / FOLDER / name

    def is_due(self) -> bool:
        """Whether the last checkpoint (or the start) is --checkpoint-minutes old; only rank 0's clock counts."""
        return self.network.mesh.is_main and time.monotonic() - self.saved_at >= 60 * self.config.checkpoint_minutes

    def hint(self) -> str:
        """Which checkpoint to go on from, for an error's message."""
        return f"the last valid checkpoint is {self.last_valid}" if self.last_valid else "there is no checkpoint yet"

    def load(self, source: Path, checkpoint: dict[str, Any]) -> TrainState:
        """Go on from `checkpoint`, read from `source`, which becomes last.pt, and that replaced.pt; for all ranks."""
        restore(checkpoint, self.network)
        self.schedule.load_state_dict(checkpoint["schedule"])
        last = self.path(LAST)
        if source != last:
            self.network.mesh.on_main_rank(lambda: replace_checkpoint(source, last))
        self.last_valid = last
        return TrainState(epoch=checkpoint["epoch"], step=checkpoint["step"], best=checkpoint["best"])

    def finite(self) -> bool:
        """Whether all weights of all ranks are finite; called by all ranks."""
        finite = all(bool(torch.isfinite(value).all()) for value in self.network.net.state_dict().values())
        return not self.network.mesh.any(not finite)

    def save(self, state: TrainState, *, best: bool = False, epoch_done: bool = False) -> None:
        """Write last.pt, and its other names; called by all ranks. Raises CheckpointError or OSError on all of them."""
        if not self.finite():
            raise CheckpointError(f"weights are not finite after step {state.step}; not saved: {self.hint()}")
        collected = collect(self.network)
        names = [BEST] if best else []
        if epoch_done and self.config.keep_every and state.epoch % self.config.keep_every == 0:
            names.append(f"epoch-{state.epoch:04d}.pt")

        def write() -> None:
            assert collected is not None
            weights, velocities = collected
            if self.before_writing is not None:
                self.before_writing()
            if self.last_valid == self.path(LAST) and self.last_valid.exists():
                hardlink(self.last_valid, self.path(PREVIOUS))
            variable = {"model": weights, "optimizer": velocities, "schedule": self.schedule.state_dict()}
            save_checkpoint(self.path(LAST), self.constant | variable | vars(state), *names)

        self.network.mesh.on_main_rank(write)
        self.last_valid, self.saved_at = self.path(LAST), time.monotonic()


def find_start(config: TrainConfig, mesh: Mesh) -> Path | None:
    """The checkpoint that a run goes on from, None to start anew; rank 0's answer, on all ranks.

    --resume-from, else last.pt. Raises UserError if the folder cannot be gone on with.
    """

    def newest() -> Path | None:
        last = config.run_dir / FOLDER / LAST
        last_is_there = finish_save(last)
        if config.resume_from is not None and not (last_is_there and _resumed_before_restart(config)):
            return config.resume_from
        if not last_is_there and any(last.parent.glob("*.pt")):
            raise UserError(f"{last.parent} has checkpoints, but no {LAST}; choose one with --resume-from FILE")
        return last if last_is_there else None

    return mesh.on_main_rank(newest)


def _resumed_before_restart(config: TrainConfig) -> bool:
    """Whether torchrun or Slurm started this command again after an earlier start had gone on from --resume-from."""
    restarts = [os.environ.get(name, "0") for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")]
    if restarts == ["0", "0"] or not (config.run_dir / CONFIG).is_file():
        return False
    before = json.loads((config.run_dir / CONFIG).read_text(encoding="utf-8"))["train_config"]["resume_from"]
    if before != str(config.resume_from):
        return False
    logger.info("this job was started again: going on from %s, not from --resume-from", LAST)
    return True


def read_matching(path: Path, config: TrainConfig, dataset: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint to go on from. Raises CheckpointError with what to do if it is damaged or of another training."""
    try:
        checkpoint = load_checkpoint(path)
    except CheckpointError as error:
        folder = config.run_dir / FOLDER
        others = sorted(str(file) for file in folder.glob("*.pt") if file not in (path, folder / REPLACED))
        hint = f"; go on from an older one with --resume-from {others[-1]}" if others else ""
        raise CheckpointError(f"{error}{hint}") from error
    phrases = differences(checkpoint, config, dataset)
    if phrases:
        raise CheckpointError(
            f"{path} is of another training: {'; '.join(phrases)}; go on with the same, or give another --run-dir"
        )
    return checkpoint


def as_tensors(arrays: dict[str, Any]) -> Tensors:
    """Statistics as float64 tensors, for a checkpoint."""
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in arrays.items()}
