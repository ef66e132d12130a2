"""Learning rates over the epochs: `original` as it was logged, `paper` by watching the validation error.

A recipe's name and the run's length go in; an object comes out that gives every parameter's rate. Epochs count from 0
here; the original's logs, and the constants below that quote them, count from 1.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from common import ceil_div
from model.recipe import LAYERS, recipe

NAMES = tuple(f"{layer}.{kind}" for layer in LAYERS for kind in ("weight", "bias"))
Steps = tuple[tuple[int, float], ...]  # (first epoch at the rate, rate), epochs from 1


@dataclass(frozen=True, kw_only=True)
class TrainingLog:
    """What was done by hand in one of the original's trainings, epochs counted from 1.

    epochs: how many there were. rates: by kind of parameter, conv1's apart, since it was frozen before the others.
    noise_off: the first epoch without color noise (and the division by 1.1); noise_again: the first of later ones that
    had it again, and the first after them.
    """

    epochs: int
    rates: dict[str, Steps]
    noise_off: int
    noise_again: tuple[int, int] | None = None


# The notes in layer-params-145-2010.cfg, net #145 on ILSVRC-2010, the paper's Table 1. The file holds the biases' last
# rates (epsB); that they were 0.02 at first and fell with the first drop is inferred (docs/fidelity.md).
FIRST = TrainingLog(
    epochs=93,
    rates={
        "weight": ((1, 1e-2), (23, 1e-3), (51, 1e-4), (78, 1e-5)),
        "conv1.weight": ((1, 1e-2), (23, 1e-3), (51, 1e-4), (68, 1e-5), (72, 0.0)),
        "bias": ((1, 2e-2), (23, 2e-3)),
        "conv1.bias": ((1, 2e-2), (23, 2e-3), (72, 0.0)),
    },
    noise_off=68,
)
# The notes in layer-params-145.cfg, net #145 on ILSVRC-2012: killed at epoch 91, then "pushing learning rate back up".
SECOND = TrainingLog(
    epochs=135,
    rates={
        "weight": ((1, 1e-2), (25, 1e-3), (51, 1e-4), (79, 1e-5), (91, 1e-3), (107, 1e-4), (124, 1e-5)),
        "conv1.weight": ((1, 1e-2), (25, 1e-3), (51, 1e-4), (67, 1e-5), (72, 0.0)),
        "bias": ((1, 2e-2),),
        "conv1.bias": ((1, 2e-2), (72, 0.0)),
    },
    noise_off=67,
    noise_again=(91, 124),
)
LOGS = {"first": FIRST, "second": SECOND}

# Krizhevsky 2012 §5: ÷10 "when the validation error rate stopped improving with the current learning rate", three times
# in about 90 epochs. When it has stopped is ours to say: no error lower than the lowest by IMPROVEMENT of it, for more
# than 8 epochs of 90. On the log of the 2024 replication this drops after epochs 31 and 51, as its authors' did; taking
# any new lowest error for an improvement would wait for epoch 40 (tests/model/test_schedule.py).
PAPER_RATE = 1e-2
PAPER_DROPS = 3
PAPER_EPOCHS = 90
PAPER_PATIENCE = 8
IMPROVEMENT = 0.005


class Schedule:
    """What `make_schedule` returns.

    noise_epochs: how many epochs, from the first, have color noise; None for all. noise_again: the first of later
    epochs that have it again, and the first after them; None for none.
    """

    recipe: str
    noise_epochs: int | None = None
    noise_again: tuple[int, int] | None = None
    saved: tuple[str, ...] = ()  # the numbers that a resumed run must know

    def rates(self, epoch: int) -> dict[str, float]:
        """The rate of each unsplit parameter name in `epoch` (from 0), before any scaling."""
        raise NotImplementedError

    def observe(self, figures: Mapping[str, Any]) -> None:
        """Take note of the validation's `top1_error` and `top5_error` at the end of an epoch."""

    def apply(self, optimizer: torch.optim.Optimizer, epoch: int) -> None:
        """Write the rates of `epoch`, times each group's rate_scale, into `optimizer`."""
        rates = self.rates(epoch)
        for group in optimizer.param_groups:
            group["lr"] = rates[group["name"]] * group["rate_scale"]

    def state_dict(self) -> dict[str, Any]:
        """The recipe's name, and the numbers of `saved`."""
        return {"recipe": self.recipe} | {name: getattr(self, name) for name in self.saved}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`; ValueError when it is another recipe's."""
        if state.get("recipe") != self.recipe:
            raise ValueError(f"schedule's state is of recipe {state.get('recipe')!r}, expected {self.recipe!r}")
        for name in self.saved:
            setattr(self, name, type(getattr(self, name))(state[name]))


class OriginalSchedule(Schedule):
    """The rates of one of the original's logs, stretched in proportion from its epochs to `epochs` (rounded up)."""

    recipe = "original"

    def __init__(self, epochs: int, log: TrainingLog) -> None:
        self.epochs, self.log = epochs, log
        self.noise_epochs = self.scaled_epoch(log.noise_off)
        if log.noise_again:
            self.noise_again = self.scaled_epoch(log.noise_again[0]), self.scaled_epoch(log.noise_again[1])

    def scaled_epoch(self, logged_epoch: int) -> int:
        """The epoch of this run, from 0, in which what the log says of the start of `logged_epoch` is done."""
        epochs_before = logged_epoch - 1  # the log counts from 1
        return ceil_div(epochs_before * self.epochs, self.log.epochs)

    def rates(self, epoch: int) -> dict[str, float]:
        """The rate of each parameter; past the last epoch, those of the last step of the schedule."""
        now = {
            kind: [rate for start, rate in steps if self.scaled_epoch(start) <= epoch][-1]
            for kind, steps in self.log.rates.items()
        }
        return {name: now.get(name, now[name.partition(".")[2]]) for name in NAMES}


class PaperSchedule(Schedule):
    """One rate for all: ÷10, three times at most, each when the validation error has stopped improving."""

    recipe = "paper"
    saved = ("best", "stale_epochs", "drops")

    def __init__(self, epochs: int, plateau: str, patience: int | None) -> None:
        self.watched = f"{plateau}_error"
        self.patience = patience or max(1, round(PAPER_PATIENCE * epochs / PAPER_EPOCHS))
        self.best, self.stale_epochs, self.drops = math.inf, 0, 0

    def rates(self, epoch: int) -> dict[str, float]:
        """The present rate of each parameter; `epoch` plays no part."""
        return dict.fromkeys(NAMES, PAPER_RATE / 10**self.drops)

    def observe(self, figures: Mapping[str, Any]) -> None:
        """Count epochs without an improvement; lower the rate after more than `patience` of them."""
        error = float(figures[self.watched])
        if error < self.best * (1 - IMPROVEMENT):
            self.best, self.stale_epochs = error, 0
            return
        self.stale_epochs += 1
        if self.stale_epochs > self.patience and self.drops < PAPER_DROPS:
            self.drops += 1
            self.stale_epochs = 0


def make_schedule(
    name: str, epochs: int, *, log: str = "first", plateau: str = "top1", patience: int | None = None
) -> Schedule:
    """The schedule of the recipe `name` for a run of `epochs`.

    log: `original` only, which of its trainings to follow, `first` or `second`. plateau, patience: `paper` only, the
    error to watch (`top1`, `top5`) and for how many epochs it may fail to improve; None: 8 in 90, in proportion.
    Raises ValueError for another recipe or fewer than 1 epoch.
    """
    if epochs < 1:
        raise ValueError(f"epochs is {epochs}, expected 1 or more")
    if recipe(name).name == "original":
        return OriginalSchedule(epochs, LOGS[log])
    return PaperSchedule(epochs, plateau, patience)
