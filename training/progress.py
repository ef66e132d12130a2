"""Progress: each step's sums on each rank in; metrics lines, a bar or plain lines with the time left, a profile out.

A step's sums stay on the device until the next step has been queued, so that a GPU never waits for the log.
"""

import contextlib
import logging
import math
import resource
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.profiler import ProfilerActivity, _ExperimentalConfig, profile, schedule
from tqdm import tqdm

from common.errors import UserError
from model.alexnet import Towers
from model.response_norm import implementation
from training.checkpoints import TrainState
from training.config import TrainConfig
from training.mesh import LostRankError, Mesh
from training.run_folder import RunFolder
from training.step import ParallelNetwork, precision_on

logger = logging.getLogger(__name__)
LINE_SECONDS = 30.0
WARM_UP_STEPS = 5  # before the steps of --profile


class NotFiniteError(UserError):
    """The loss or the weights became NaN or infinite."""


@dataclass(frozen=True)
class Step:
    """One step that has been queued."""

    step: int  # from 1
    epoch: int  # from 0
    samples: int
    rate: float
    wait_seconds: float
    damaged_images: int  # of this rank so far
    totals: torch.Tensor  # what `ParallelNetwork.step` returned


class Progress:
    """`folder`: rank 0's, None elsewhere. `first`, `last`: steps done at the start and at the end of the run.

    On a terminal a bar; elsewhere one plain line every `LINE_SECONDS`, and one at the end.
    """

    def __init__(self, mesh: Mesh, folder: RunFolder | None, first: int, last: int, log_every: int) -> None:
        self.mesh, self.folder, self.log_every = mesh, folder, log_every
        self._queued: deque[tuple[Step, torch.cuda.Event | None]] = deque()
        self._lag = 1 if mesh.device.type == "cuda" else 0
        self.restart_clock()
        self._last, self._line_step, self._line_time = last, first, time.monotonic()
        hidden = folder is None or not sys.stderr.isatty() or not logger.isEnabledFor(logging.INFO)
        self._bar = tqdm(total=last, initial=first, unit="step", disable=hidden, dynamic_ncols=True)

    def add(self, step: Step) -> None:
        """A step has been queued: its sums begin to travel to the CPU when the GPU has done it, without waiting."""
        event = torch.cuda.Event() if self._lag else None
        totals = step.totals.to("cpu", non_blocking=True)  # into pinned memory
        if event is not None:
            event.record()
        self._queued.append((replace(step, totals=totals), event))

    def pop_ready(self, flush: bool = False) -> Step | None:
        """The oldest step not reported yet, once a later one is queued behind it on a GPU (or with `flush`).

        Raises LostRankError if the GPU does not get through it: it waits for another rank's.
        """
        if len(self._queued) <= (0 if flush else self._lag):
            return None
        step, event = self._queued.popleft()
        end = time.monotonic() + self.mesh.timeout_seconds
        while event is not None and not event.query():
            if self.mesh.world > 1 and time.monotonic() > end:
                raise LostRankError(f"step {step.step} is not done after {self.mesh.timeout_seconds:g} seconds")
            time.sleep(0.0002)
        return step

    def own_sums(self, step: Step | None) -> list[float]:
        """What this rank adds to the global sums of a step: seconds waited, damaged images, loss, errors."""
        if step is None:
            return [0.0] * 5
        totals = step.totals.tolist() if self.mesh.model_rank == 0 else [0.0] * 3  # the ranks of a pair have the same
        return [step.wait_seconds / self.mesh.world, float(step.damaged_images), *totals]

    def report(self, step: Step, sums: list[float]) -> None:
        """Log a step by the sums over all ranks of `own_sums`. Raises NotFiniteError for a loss that is not finite."""
        wait_seconds, damaged_images = sums[:2]
        loss, top1_error, top5_error = (total / step.samples for total in sums[2:])
        if not math.isfinite(loss):
            raise NotFiniteError(f"the loss of step {step.step} is {loss}")
        self._images += step.samples
        self._wait += wait_seconds
        if self.folder is None:
            return
        now = time.monotonic()
        seconds = max(now - self._since, 1e-9)
        speed, waiting = self._images / seconds, min(self._wait / seconds, 1.0)
        text = f"epoch {step.epoch + 1}, loss {loss:.3f}, error {top1_error:.1%}, "
        text += f"{speed:.0f} images/s, data wait {waiting:.0%}"
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(step.step - self._bar.n)
        todo = self._last - step.step
        if not todo or now - self._line_time >= LINE_SECONDS:
            left = tqdm.format_interval(todo * (now - self._line_time) / (step.step - self._line_step))
            if self._bar.disable:
                text += f", {left} left without validation" if todo else ""
                logger.info("step %s of %s: %s", f"{step.step:,}", f"{self._last:,}", text)
            self._line_step, self._line_time = step.step, now
        if step.step % self.log_every == 0:
            self.restart_clock()
            line = {
                "step": step.step,
                "epoch": step.epoch + 1,
                "loss": loss,
                "top1_error": top1_error,
                "top5_error": top5_error,
                "rate": step.rate,
                "images_per_second": speed,
                "data_wait_fraction": waiting,
                "damaged_images": int(damaged_images),
                "memory_bytes": memory_bytes(self.mesh.device),
            }
            self.folder.log(line)

    def log_validation(self, step: int, epoch: int, figures: Mapping[str, Any]) -> None:
        """Log the scores of an epoch's validation, and say them."""
        if self.folder is None:
            return
        loss, top1, top5, images = (figures[name] for name in ("log_loss", "top1_error", "top5_error", "images"))
        validation = {"loss": loss, "top1_error": top1, "top5_error": top5, "images": images}
        self.folder.log({"step": step, "epoch": epoch + 1, "validation": validation})
        errors = f"top-1 error {100 * top1:.2f} %, top-5 error {100 * top5:.2f} %"
        logger.info("epoch %d: validation loss %.4f, %s, %s images", epoch + 1, loss, errors, f"{images:,}")

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


def log_run_summary(
    network: ParallelNetwork, state: TrainState, images: int, validated: int, steps_per_epoch: int, last_step: int
) -> None:
    """Say, before the first step, what will run where: network, parameters, data, steps."""
    config, model = network.config, network.net.config
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in Towers(model, model.towers).parameters())
    precision = precision_on(network.mesh.device.type, config)
    lines = [
        f"{network.mesh.describe()}; response norms: {implementation(network.mesh.device)}",
        f"AlexNet, recipe {model.recipe}, width {model.width:g}, {parameters:,} parameters, {model.classes:,} classes, "
        f"{precision}" + (f", without {', '.join(config.ablate)}" if config.ablate else ""),
        f"{images:,} training images, batch {config.batch_size}: {steps_per_epoch:,} steps an epoch; "
        f"{max(last_step - state.step, 0):,} of {last_step:,} steps to do",
        f"{validated:,} validation images" if validated else "no val/: no validation, and no best.pt",
    ]
    if not validated and model.recipe == "paper":
        lines.append("recipe paper lowers its rate by the validation error: without val/ the rate stays")
    if state.step:
        lines.append(f"going on after step {state.step:,} in epoch {state.epoch + 1}")
    for line in lines:
        logger.info("%s", line)


@contextlib.contextmanager
def profiling(config: TrainConfig, mesh: Mesh) -> Iterator[Callable[[], None]]:
    """Gives what is to be called after each step; without --profile that does nothing.

    RUN/profile/rank-R.json.gz, for https://ui.perfetto.dev, shows kernels, copies and the operations of all threads,
    the loader's too. The first steps are left out: they compile, choose algorithms and wait for the first batches.
    """
    if config.profile is None:
        yield lambda: None
        return
    path = config.run_dir / "profile" / f"rank-{mesh.rank}.json.gz"

    def write(profiler: profile) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(path))
        logger.info("profile of %d steps: %s", config.profile, path)

    cuda = [ProfilerActivity.CUDA] if mesh.device.type == "cuda" else []
    with profile(
        activities=[ProfilerActivity.CPU, *cuda],
        schedule=schedule(wait=WARM_UP_STEPS - 1, warmup=1, active=config.profile, repeat=1),
        on_trace_ready=write,
        experimental_config=_ExperimentalConfig(profile_all_threads=True),
    ) as profiler:
        yield profiler.step
    if profiler.step_num < WARM_UP_STEPS + config.profile:
        logger.warning("--profile %d needs %d steps more than that; the run had fewer", config.profile, WARM_UP_STEPS)
