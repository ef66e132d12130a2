"""Progress: each step's sums on each rank in; metrics lines, the bar, and the hours that remain out.

A step's sums stay on the device until the next step has been queued, so that a GPU never waits for the log. `handshake`
is the one sum over all ranks a step makes: it carries the sums of an earlier step and the wish to stop or to save, so
all ranks decide the same at the same step.
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

from model.alexnet import Towers
from model.mesh import Mesh
from model.parallel import ParallelNetwork
from model.run_folder import RunFolder
from model.scores import Figures
from model.state import Place
from model.stopping import Control

logger = logging.getLogger(__name__)
STEPS_BEFORE_ESTIMATE = 20


class NotFiniteError(ArithmeticError):
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


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What any rank wants done before the next step."""

    stop: bool
    save: bool


class Progress:
    """`folder`: rank 0's, None elsewhere. `first`, `last`: steps done at the start and at the end of the run."""

    def __init__(
        self, mesh: Mesh, control: Control, folder: RunFolder | None, first: int, last: int, log_every: int
    ) -> None:
        self.mesh, self.control, self.folder, self.log_every = mesh, control, folder, log_every
        self._pending: deque[Step] = deque()
        self._lag = 1 if mesh.device.type == "cuda" else 0
        self._images, self._wait, self._since = 0, 0.0, time.monotonic()
        self._timed_steps, self._timed_from, self._last = 0, 0.0, last
        quiet = 0.1 if sys.stderr.isatty() else 30.0
        self._bar = tqdm(
            total=last, initial=first, unit="step", disable=folder is None, mininterval=quiet, dynamic_ncols=True
        )

    def note(self, step: Step) -> None:
        """A step has been queued."""
        self._pending.append(step)

    def handshake(self, *, stop: bool, save: bool, flush: bool = False) -> Wishes:
        """Report the step that is ready, if one is, and learn what any rank wants; called by all ranks alike.

        `flush`: report all steps. Raises NotFiniteError on all ranks when a loss is NaN or infinite.
        """
        while True:
            ready = self._pending.popleft() if len(self._pending) > (0 if flush else self._lag) else None
            own = ready.totals.tolist() if ready and self.mesh.model_rank == 0 else [0.0, 0.0, 0.0]
            wait = ready.wait_seconds / self.mesh.world if ready else 0.0
            stops, saves, wait, *sums = self.control.sum([float(stop), float(save), wait, *own])
            if ready:
                self._report(ready, [total / ready.samples for total in sums], wait)
            if not flush or not self._pending:
                return Wishes(stop=stops > 0, save=saves > 0)

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


def announce(
    network: ParallelNetwork, place: Place, images: int, validated: int, steps_per_epoch: int, last_step: int
) -> None:
    """Say, before the first step, what will run where: network, parameters, data, steps."""
    config, model = network.config, network.net.config
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in Towers(model, towers=2).parameters())
    lines = [
        network.mesh.describe(),
        f"AlexNet, recipe {model.recipe}, width {model.width:g}, {parameters:,} parameters, {model.classes:,} classes, "
        f"{config.precision}",
        f"{images:,} training images, batch {config.batch_size}: {steps_per_epoch:,} steps an epoch; "
        f"{max(last_step - place.step, 0):,} of {last_step:,} steps to do",
        f"{validated:,} validation images" if validated else "no val/: no validation, and no best.pt",
    ]
    if not validated and model.recipe == "paper":
        lines.append("recipe paper lowers its rate by the validation error: without val/ the rate stays")
    if place.step:
        lines.append(f"going on after step {place.step:,} in epoch {place.epoch}")
    for line in lines:
        logger.info("%s", line)
