"""The state of a run: what this rank holds in, the unsplit checkpoint out, and back on any number of ranks.

`Keeper` writes checkpoints and knows which file they supersede; `differences` says in which way a checkpoint belongs to
another training than the one asked for.
"""

import contextlib
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from model.checkpoint import (
    BEST,
    FOLDER,
    LAST,
    PREVIOUS,
    REPLACED,
    CheckpointError,
    finish_save,
    first_line,
    load_checkpoint,
    publish,
    replace_checkpoint,
    save_checkpoint,
)
from model.config import TrainConfig
from model.parallel import ParallelNetwork
from model.restart import agents_of_all, record_agents
from model.run_folder import RunError, refuse_to_overwrite
from model.schedule import Schedule
from model.stopping import Control
from model.two_tower import join_state, split_state

Tensors = dict[str, torch.Tensor]


@dataclass(kw_only=True)
class Place:
    """Where a run is. `epoch` is the one going on, from 0: its validation is not done yet. `step` counts steps done."""

    epoch: int = 0
    step: int = 0
    best: float | None = None


def versions() -> dict[str, str]:
    """What computes here: Python and the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for name in ("torch", "numpy", "nvidia-dali-cuda130", "nvidia-dali-cuda120"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def collect(network: ParallelNetwork) -> tuple[Tensors, Tensors] | None:
    """Unsplit weights and velocities on rank 0, None elsewhere; called by all ranks. Tensors on the CPU."""
    mesh = network.mesh
    own = (_on_cpu(network.net.state_dict()), _on_cpu(network.optimiser.velocities()))
    if mesh.model_world == 1 or mesh.data_rank != 0:
        return own if mesh.first else None
    if mesh.first:
        box: list[Any] = [None]
        dist.recv_object_list(box, src=1, group=mesh.control_group)
        weights, velocities = zip(own, box[0])
        return join_state(weights), join_state(velocities)
    dist.send_object_list([own], dst=0, group=mesh.control_group)
    return None


def _on_cpu(tensors: Tensors) -> Tensors:
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


def restore(checkpoint: dict[str, Any], network: ParallelNetwork) -> None:
    """Put a checkpoint's weights and velocities into this rank's network. Raises CheckpointError if they do not fit."""
    weights, velocities = checkpoint["model"], checkpoint["optimiser"]
    try:
        if network.mesh.model_world > 1:
            tower = network.mesh.model_rank
            weights, velocities = split_state(weights, tower), split_state(velocities, tower)
        network.net.load_state_dict(weights)
        for name, velocity in network.optimiser.velocities().items():
            if velocities[name].shape != velocity.shape:
                shapes = f"{list(velocities[name].shape)}, not {list(velocity.shape)}"
                raise ValueError(f"the velocity of {name} is {shapes}")
            velocity.copy_(velocities[name])
    except (RuntimeError, KeyError, ValueError) as error:
        raise CheckpointError(f"the checkpoint does not fit the network: {first_line(error)}") from error


def differences(checkpoint: dict[str, Any], config: TrainConfig, data: dict[str, Any]) -> list[str]:
    """One phrase for each point in which `checkpoint` is of another training than this config on these data."""
    saved = checkpoint["train_config"]
    found = [
        f"--{name.replace('_', '-')} was {saved.get(name)}, is {value}"
        for name, value in config.identity().items()
        if saved.get(name) != value
    ]
    before = checkpoint["data"]
    if before["fingerprint"] != data["fingerprint"]:
        samples = f"{before['samples']:,} images in {len(before['classes'])} classes from {before['shards']}"
        now = f"{data['samples']:,} in {len(data['classes'])} from {data['shards']}"
        found.append(f"the training images were others ({samples}; now {now})")
    return found


@dataclass(kw_only=True)
class Keeper:
    """Writes a run's checkpoints. `constant`: the parts of a checkpoint that do not change during a run."""

    run: Path
    keep_every: int
    constant: dict[str, Any]
    network: ParallelNetwork
    schedule: Schedule
    control: Control
    before_writing: Callable[[], None] | None = None  # what the steps left is to be on the disk before the checkpoint
    sound: Path | None = None  # the file that is known to be whole: read or written by this process
    saved_at: float = field(default_factory=time.monotonic)

    def path(self, name: str) -> Path:
        return self.run / FOLDER / name

    def due(self, minutes: float) -> bool:
        """Whether the last checkpoint (or the start) is `minutes` old; only rank 0's clock counts."""
        return self.network.mesh.first and time.monotonic() - self.saved_at >= 60 * minutes

    def last_good(self) -> str:
        """Words for an error: which checkpoint to go on from."""
        return f"the last good checkpoint is {self.sound}" if self.sound else "there is no checkpoint yet"

    def take_up(self, source: Path, checkpoint: dict[str, Any]) -> Place:
        """Go on from `checkpoint`, read from `source`, which becomes the run's last.pt; called by all ranks.

        The last.pt of before stays as replaced.pt.
        """
        restore(checkpoint, self.network)
        self.schedule.load_state_dict(checkpoint["schedule"])
        cause = None
        if self.network.mesh.first and source != self.path(LAST):
            try:
                replace_checkpoint(source, self.path(LAST))
            except (CheckpointError, OSError) as error:
                cause = str(error)
        self._agree(cause)
        self.sound = self.path(LAST)
        return Place(epoch=checkpoint["epoch"], step=checkpoint["step"], best=checkpoint["best"])

    def _agree(self, cause: str | None) -> None:
        """Raise rank 0's `cause` on all ranks, if there is one."""
        cause = self.control.tell(cause, saving=True)
        if cause is not None:
            raise CheckpointError(cause)

    def finite(self) -> bool:
        """Whether all weights of all ranks are finite; called by all ranks."""
        finite = all(bool(torch.isfinite(value).all()) for value in self.network.net.state_dict().values())
        return not self.control.any(not finite)

    def save(self, place: Place, *, best: bool = False, epoch_done: bool = False) -> None:
        """Write last.pt, and its other names; called by all ranks. Raises CheckpointError on all of them."""
        if not self.finite():
            raise CheckpointError(f"weights are not finite after step {place.step}; not saved: {self.last_good()}")
        state = collect(self.network)
        cause = None
        if state is not None:
            try:
                self._write(state, place, best=best, epoch_done=epoch_done)
            except (CheckpointError, OSError) as error:
                cause = str(error)
        self._agree(cause)
        self.sound, self.saved_at = self.path(LAST), time.monotonic()

    def _write(self, state: tuple[Tensors, Tensors], place: Place, *, best: bool, epoch_done: bool) -> None:
        weights, velocities = state
        if self.before_writing is not None:
            self.before_writing()
        last = self.path(LAST)
        if self.sound == last and last.exists():
            publish(last, self.path(PREVIOUS))
        whole = self.constant | {
            "model": weights,
            "optimiser": velocities,
            "schedule": self.schedule.state_dict(),
            "epoch": place.epoch,
            "step": place.step,
            "best": place.best,
        }
        names = [BEST] if best else []
        if epoch_done and self.keep_every and place.epoch % self.keep_every == 0:
            names.append(f"epoch-{place.epoch:04d}.pt")
        save_checkpoint(last, whole, *names)


def where_to_start(config: TrainConfig, control: Control) -> Path | None:
    """The checkpoint that a run goes on from, None to start anew; rank 0's answer, on all ranks.

    --resume-from, else last.pt. Raises RunError or CheckpointError if the folder does not fit what is asked.
    """
    found, cause = None, None
    agents = agents_of_all(control)
    if control.mesh.first:
        try:
            refuse_to_overwrite(config.run, config.resuming)
            if agents is not None:
                record_agents(config.run, agents)
            found = _newest(config)
        except (RunError, CheckpointError, OSError) as error:
            cause = str(error)
    cause = control.tell(cause)
    if cause is not None:
        raise RunError(cause)
    told = control.tell(None if found is None else str(found))
    return None if told is None else Path(told)


def _newest(config: TrainConfig) -> Path | None:
    if config.resume_from is not None:
        return config.resume_from
    folder = config.run / FOLDER
    if not any(folder.glob("*.pt")):
        return None
    if not finish_save(folder / LAST):
        raise CheckpointError(f"{folder} has checkpoints, but no {LAST}; choose one with --resume-from FILE")
    return folder / LAST


def read_matching(path: Path, config: TrainConfig, data: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint to go on from. Raises CheckpointError with what to do if it is damaged or of another training."""
    try:
        checkpoint = load_checkpoint(path)
    except CheckpointError as error:
        folder = config.run / FOLDER
        others = sorted(str(file) for file in folder.glob("*.pt") if file not in (path, folder / REPLACED))
        advice = f"; go on from an older one with --resume-from {others[-1]}" if others else ""
        raise CheckpointError(f"{error}{advice}") from error
    found = differences(checkpoint, config, data)
    if found:
        raise CheckpointError(
            f"{path} is of another training: {'; '.join(found)}; go on with the same, or give another --run"
        )
    return checkpoint


def as_tensors(arrays: dict[str, Any]) -> Tensors:
    """Statistics as float64 tensors, for a checkpoint."""
    return {name: torch.from_numpy(np.array(value, dtype=np.float64)) for name, value in arrays.items()}
