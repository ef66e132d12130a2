"""Progress: each step's sums on each rank in; metrics lines, the bar, and the hours that remain out.

A step's sums stay on the device until the next step has been queued, so that a GPU never waits for the log.
"""

import logging
import math
import resource
import sys
import time
from collections import deque
from dataclasses import dataclass

import torch
from tqdm import tqdm

from common.errors import UserError
from model.alexnet import Towers
from model.scores import Figures
from training.checkpoints import TrainState
from training.mesh import Mesh
from training.run_folder import RunFolder
from training.step import ParallelNetwork

logger = logging.getLogger(__name__)
STEPS_BEFORE_ESTIMATE = 20


class NotFiniteError(UserError):
    """The loss or the weights became NaN or infinite."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step that has been queued; `step` counts it, from 1; `totals` are `ParallelNetwork.step`'s."""

    step: int
    epoch: int
    samples: int
    rate: float
    wait_seconds: float
    totals: torch.Tensor


class Progress:
    """`folder`: rank 0's, None elsewhere. `first`, `last`: steps done at the start and at the end of the run."""

    def __init__(self, mesh: Mesh, folder: RunFolder | None, first: int, last: int, log_every: int) -> None:
        self.mesh, self.folder, self.log_every = mesh, folder, log_every
        self._queued: deque[Step] = deque()
        self._lag = 1 if mesh.device.type == "cuda" else 0
        self._images, self._wait, self._since = 0, 0.0, time.monotonic()
        self._timed_steps, self._timed_from, self._last = 0, 0.0, last
        interval = 0.1 if sys.stderr.isatty() else 30.0
        self._bar = tqdm(
            total=last, initial=first, unit="step", disable=folder is None, mininterval=interval, dynamic_ncols=True
        )

    def add(self, step: Step) -> None:
        """A step has been queued."""
        self._queued.append(step)

    def pop_ready(self, flush: bool = False) -> Step | None:
        """The oldest step not reported yet, once a later one is queued behind it on a GPU (or with `flush`)."""
        return self._queued.popleft() if len(self._queued) > (0 if flush else self._lag) else None

    def own_sums(self, step: Step | None) -> list[float]:
        """What this rank adds to the global sums of a step: seconds waited, loss, top-1 and top-5 errors."""
        if step is None:
            return [0.0] * 4
        totals = step.totals.tolist() if self.mesh.model_rank == 0 else [0.0] * 3  # the ranks of a pair have the same
        return [step.wait_seconds / self.mesh.world, *totals]

    def report(self, step: Step, sums: list[float]) -> None:
        """Log a step by the sums over all ranks of `own_sums`. Raises NotFiniteError for a loss that is not finite."""
        wait_seconds, *totals = sums
        self._report(step, [total / step.samples for total in totals], wait_seconds)

    def _report(self, step: Step, means: list[float], wait: float) -> None:
        loss, top1_error, top5_error = means
        if not math.isfinite(loss):
            raise NotFiniteError(f"the loss of step {step.step} is {loss}")
        self._images += step.samples
        self._wait += wait
        if self.folder is None:
            return
        self._estimate(step)
        now = time.monotonic()
        seconds = max(now - self._since, 1e-9)
        speed, waiting = self._images / seconds, min(self._wait / seconds, 1.0)
        self._bar.set_postfix_str(
            f"epoch {step.epoch}, loss {loss:.3f}, error {top1_error:.1%}, {speed:.0f} images/s, "
            f"data wait {waiting:.0%}",
            refresh=False,
        )
        self._bar.update(step.step - self._bar.n)
        if step.step % self.log_every == 0:
            self._images, self._wait, self._since = 0, 0.0, now
            line = {
                "step": step.step,
                "epoch": step.epoch,
                "loss": loss,
                "top1_error": top1_error,
                "top5_error": top5_error,
                "rate": step.rate,
                "images_per_second": speed,
                "data_wait_fraction": waiting,
                "memory_bytes": memory_bytes(self.mesh.device),
            }
            self.folder.log(line)

    def _estimate(self, step: Step) -> None:
        """Say once how long the rest takes, from the steps after the first, which is slow."""
        if self._timed_steps == 0:
            self._timed_from = time.monotonic()
        if self._timed_steps == STEPS_BEFORE_ESTIMATE:
            seconds = (time.monotonic() - self._timed_from) / self._timed_steps
            remaining = (self._last - step.step) * seconds
            logger.info(
                "%s for the remaining %s steps (%.3g s a step), without validation",
                in_words(remaining),
                f"{self._last - step.step:,}",
                seconds,
            )
        self._timed_steps += 1

    def log_validation(self, step: int, epoch: int, figures: Figures) -> None:
        """Log the scores of an epoch's validation, and say them."""
        if self.folder is None:
            return
        errors = {"top1_error": figures["top1_error"], "top5_error": figures["top5_error"]}
        validation = {"loss": figures["log_loss"], **errors, "images": figures["images"]}
        self.folder.log({"step": step, "epoch": epoch, "validation": validation})
        logger.info(
            "epoch %d: validation loss %.4f, top-1 error %.2f %%, top-5 error %.2f %%, %s images",
            epoch,
            figures["log_loss"],
            100 * figures["top1_error"],
            100 * figures["top5_error"],
            f"{figures['images']:,}",
        )

    def restart_clock(self) -> None:
        """Leave out of images/s what went on since the last report."""
        self._images, self._wait, self._since = 0, 0.0, time.monotonic()

    def close(self) -> None:
        self._bar.close()


def memory_bytes(device: torch.device) -> int:
    """The most memory used so far: on the GPU by tensors, on the CPU by the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def in_words(seconds: float) -> str:
    """`about 3.2 hours`, `about 4 minutes`."""
    if seconds >= 5400:
        return f"about {seconds / 3600:.1f} hours"
    if seconds >= 90:
        return f"about {seconds / 60:.0f} minutes"
    return f"about {seconds:.0f} seconds"


def log_run_summary(
    network: ParallelNetwork, state: TrainState, images: int, validated: int, steps_per_epoch: int, last_step: int
) -> None:
    """Say, before the first step, what will run where: network, parameters, data, steps."""
    config, model = network.config, network.net.config
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in Towers(model, model.towers).parameters())
    lines = [
        network.mesh.describe(),
        f"AlexNet, recipe {model.recipe}, width {model.width:g}, {parameters:,} parameters, {model.classes:,} classes, "
        f"{config.precision}" + (f", without {', '.join(config.ablate)}" if config.ablate else ""),
        f"{images:,} training images, batch {config.batch_size}: {steps_per_epoch:,} steps an epoch; "
        f"{max(last_step - state.step, 0):,} of {last_step:,} steps to do",
        f"{validated:,} validation images" if validated else "no val/: no validation, and no best.pt",
    ]
    if not validated and model.recipe == "paper":
        lines.append("recipe paper lowers its rate by the validation error: without val/ the rate stays")
    if state.step:
        lines.append(f"going on after step {state.step:,} in epoch {state.epoch}")
    for line in lines:
        logger.info("%s", line)
