"""Learning rates over the epochs: `original` as it was logged, `paper` by watching the validation error.

A recipe's name and the run's length go in; an object comes out that gives every parameter's rate. Epochs count from 0
here; the original's logs, and the constants below that quote them, count from 1.
"""

import math
from abc import ABC, abstractmethod
from typing import Any

import torch

from common import ceil_div
from model.recipe import LAYERS, recipe

NAMES = tuple(f"{layer}.{kind}" for layer in LAYERS for kind in ("weight", "bias"))

# layer-params-145-2010.cfg and the log of #145-2010: (first epoch at the rate, rate), epochs from 1, 93 in all.
ORIGINAL_EPOCHS = 93
_Steps = tuple[tuple[int, float], ...]
_WEIGHTS: _Steps = ((1, 1e-2), (23, 1e-3), (51, 1e-4), (78, 1e-5))
_CONV1_WEIGHTS: _Steps = ((1, 1e-2), (23, 1e-3), (51, 1e-4), (68, 1e-5), (72, 0.0))
_BIASES: _Steps = ((1, 2e-2), (23, 2e-3))  # epsB
_CONV1_BIASES: _Steps = ((1, 2e-2), (23, 2e-3), (72, 0.0))
NOISE_OFF = 68  # color noise (and the division by 1.1) stop at the epoch where conv1's rate falls

# Krizhevsky 2012 §5: ÷10 "when the validation error rate stopped improving with the current learning rate", three times
# in about 90 epochs. The patience is ours: 8 epochs of 90, as in the 2024 replication.
PAPER_RATE = 1e-2
PAPER_DROPS = 3
PAPER_EPOCHS = 90
PAPER_PATIENCE = 8


class Schedule(ABC):
    """What `make_schedule` returns.

    noise_epochs: how many epochs, from the first, have color noise; None for all.
    """

    recipe: str
    noise_epochs: int | None

    @abstractmethod
    def rates(self, epoch: int) -> dict[str, float]:
        """The rate of each unsplit parameter name in `epoch` (from 0), before any scaling."""

    @abstractmethod
    def observe(self, validation_error: float) -> None:
        """Take note of the validation error at the end of an epoch."""

    def apply(self, optimizer: torch.optim.Optimizer, epoch: int) -> None:
        """Write the rates of `epoch`, times each group's rate_scale, into `optimizer`."""
        rates = self.rates(epoch)
        for group in optimizer.param_groups:
            group["lr"] = rates[group["name"]] * group["rate_scale"]

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know: plain numbers and strings."""
        return {"recipe": self.recipe}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`; ValueError when it is another recipe's."""
        if state.get("recipe") != self.recipe:
            raise ValueError(f"schedule's state is of recipe {state.get('recipe')!r}, expected {self.recipe!r}")


class OriginalSchedule(Schedule):
    """The rates of the original's log, stretched in proportion from 93 epochs to `epochs` (rounded up)."""

    recipe = "original"

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self.noise_epochs = self.scaled_epoch(NOISE_OFF)

    def scaled_epoch(self, original_epoch: int) -> int:
        """The epoch of this run, from 0, in which what the original did at the start of `original_epoch` is done."""
        epochs_before = original_epoch - 1  # its logs count from 1
        return ceil_div(epochs_before * self.epochs, ORIGINAL_EPOCHS)

    def rates(self, epoch: int) -> dict[str, float]:
        """The rate of each parameter; past the last epoch, those of the last step of the schedule."""
        table = dict.fromkeys(NAMES, _WEIGHTS) | {name: _BIASES for name in NAMES if name.endswith("bias")}
        table |= {"conv1.weight": _CONV1_WEIGHTS, "conv1.bias": _CONV1_BIASES}
        return {
            name: [rate for start, rate in steps if self.scaled_epoch(start) <= epoch][-1]
            for name, steps in table.items()
        }

    def observe(self, validation_error: float) -> None:
        """Nothing to learn: this schedule was written down before."""


class PaperSchedule(Schedule):
    """One rate for all: ÷10, three times at most, each when the validation error has not fallen for a while."""

    recipe = "paper"
    noise_epochs = None

    def __init__(self, epochs: int) -> None:
        self.patience = max(1, round(PAPER_PATIENCE * epochs / PAPER_EPOCHS))
        self.best = math.inf
        self.stale_epochs = 0
        self.drops = 0

    def rates(self, epoch: int) -> dict[str, float]:
        """The present rate of each parameter; `epoch` plays no part."""
        return dict.fromkeys(NAMES, PAPER_RATE / 10**self.drops)

    def observe(self, validation_error: float) -> None:
        """Count epochs without a new lowest error; lower the rate after more than `patience` of them."""
        if validation_error < self.best:
            self.best = validation_error
            self.stale_epochs = 0
            return
        self.stale_epochs += 1
        if self.stale_epochs > self.patience and self.drops < PAPER_DROPS:
            self.drops += 1
            self.stale_epochs = 0

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "best": self.best,
            "stale_epochs": self.stale_epochs,
            "drops": self.drops,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.best = float(state["best"])
        self.stale_epochs = int(state["stale_epochs"])
        self.drops = int(state["drops"])


def make_schedule(name: str, epochs: int) -> Schedule:
    """The schedule of the recipe `name` for a run of `epochs`; ValueError for another name or fewer than 1 epoch."""
    if epochs < 1:
        raise ValueError(f"epochs is {epochs}, expected 1 or more")
    return OriginalSchedule(epochs) if recipe(name).name == "original" else PaperSchedule(epochs)
