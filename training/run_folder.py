"""A run's folder: what happened in; `config.json`, `metrics.jsonl` and TensorBoard events out.

Only rank 0 writes. `metrics.jsonl` has one object a line; steps count from 1, epochs from 0. When a run goes on from
a checkpoint, lines of later steps are cut off, a line torn by a kill too, so that no step stands twice.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from torch.utils.tensorboard import SummaryWriter

from common.errors import UserError
from common.files import write_atomically

CONFIG, METRICS, TENSORBOARD, STOPPED = "config.json", "metrics.jsonl", "tensorboard", "stopped"


class RunError(UserError):
    """The folder cannot be used as asked; the message says what to do."""


class RunFolder:
    """Open for writing until `close`; `step` and `epoch` are those of the state that is gone on from."""

    def __init__(self, path: Path, step: int, epoch: int) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        (path / STOPPED).unlink(missing_ok=True)
        cut_back(path / METRICS, step, epoch)
        self._metrics: TextIO = (path / METRICS).open("a", encoding="utf-8")
        self._events = SummaryWriter(str(path / TENSORBOARD), purge_step=step + 1)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write config.json, whole or not at all."""
        with write_atomically(self.path / CONFIG) as file:
            file.write(json.dumps(config, indent=2, sort_keys=True).encode() + b"\n")

    def log(self, line: Mapping[str, Any]) -> None:
        """Append one line (with `step`) to metrics.jsonl and its numbers to TensorBoard."""
        self._metrics.write(json.dumps(line) + "\n")
        self._metrics.flush()
        part = line.get("validation")
        name, numbers = ("validation", part) if part else ("train", line)
        for key, value in numbers.items():
            if key not in ("step", "epoch") and isinstance(value, int | float):
                self._events.add_scalar(f"{name}/{key}", value, line["step"])

    def sync(self) -> None:
        """Make what was logged outlast a power cut: before a checkpoint says that these steps are done."""
        os.fsync(self._metrics.fileno())
        self._events.flush()

    def mark_stopped(self, step: int) -> None:
        """Leave a file that tells a batch script that the run was stopped and wants to go on."""
        with write_atomically(self.path / STOPPED) as file:
            file.write(json.dumps({"step": step}).encode() + b"\n")

    def close(self) -> None:
        self._metrics.close()
        self._events.close()


def cut_back(metrics: Path, step: int, epoch: int) -> None:
    """Keep the training lines of steps up to `step` and the validation lines of epochs before `epoch`."""
    if not metrics.exists():
        return
    done_lines = []
    for line in metrics.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
            done = entry["epoch"] < epoch if "validation" in entry else entry["step"] <= step
        except (ValueError, KeyError, TypeError):
            done = False  # torn by a kill
        if done:
            done_lines.append(line)
    with write_atomically(metrics) as file:
        file.write("".join(line + "\n" for line in done_lines).encode())
