"""A run's folder: what happened in; `config.json`, `metrics.jsonl` and TensorBoard events out.

Only rank 0 writes. `metrics.jsonl` has one object a line; steps and epochs count from 1. When a run goes on from
a checkpoint, lines of later steps are cut off, a line torn by a kill too, so that no step stands twice.
"""

import fcntl
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from torch.utils.tensorboard import SummaryWriter

from common.errors import UserError
from common.files import write_text

logger = logging.getLogger(__name__)
CONFIG, METRICS, TENSORBOARD, STOPPED = "config.json", "metrics.jsonl", "tensorboard", "stopped"
LOCK = "lock"
BEAT_SECONDS = 10.0  # so often a running training touches its lock


class RunLock:
    """One training's claim on a run's folder, made if need be; the file `lock` in it says who holds it.

    The kernel frees a flock when its process dies, so that a dead process of this machine never blocks. Where another
    machine's flock does not reach through a shared file system, its file's modification time does: it changes every
    `BEAT_SECONDS` while the process lives, and is watched a little longer. Raises UserError naming the holder.
    """

    def __init__(self, folder: Path) -> None:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--run-dir {folder} is no folder; give a folder for the run's files")
        folder.mkdir(parents=True, exist_ok=True)
        self._path, self._released = folder / LOCK, threading.Event()
        self._file = self._path.open("a+", encoding="utf-8")
        holder, here = self._path.read_text(encoding="utf-8", errors="replace").strip(), f"on {socket.gethostname()},"
        if not self._is_free(holder, here):
            self._file.close()
            busy = f"{folder} is in use by {holder or 'a process that starts'}"
            raise UserError(f"{busy}; wait for it, or give another --run-dir")
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} {here} since {time.strftime('%Y-%m-%d %H:%M:%S %Z')}\n")
        self._file.flush()
        threading.Thread(target=self._beat, name="run-lock", daemon=True).start()

    def _is_free(self, holder: str, here: str) -> bool:
        """Whether no process has the lock, or the one of another machine that did not free it touches it no more."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if here in holder:
                return True
        except BlockingIOError:
            return False
        except OSError as error:  # a file system without flock
            logger.warning("%s cannot be locked (%s): only its time tells of other trainings", self._path, error)
        if not holder:
            return True
        logger.info("%s was held by %s: watching for %.0f s whether it lives", self._path, holder, 2.5 * BEAT_SECONDS)
        before, end = self._time(), time.monotonic() + 2.5 * BEAT_SECONDS
        while time.monotonic() < end:
            self._released.wait(BEAT_SECONDS / 10)
            if self._time() != before:
                return False
        return True

    def _time(self) -> int:
        with self._path.open("rb") as file:  # opened anew: network file systems keep attributes for a while
            return os.fstat(file.fileno()).st_mtime_ns

    def _beat(self) -> None:
        while not self._released.wait(BEAT_SECONDS):
            try:
                os.utime(self._path)
            except OSError as error:
                logger.warning("cannot touch %s (%s): other machines may take this run for dead", self._path, error)

    def close(self) -> None:
        """Free the folder."""
        self._released.set()
        self._file.truncate(0)
        self._file.close()


class RunFolder:
    """Open for writing until `close`; `step` and `epoch` are those of the state that is gone on from."""

    def __init__(self, path: Path, step: int, epoch: int) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        (path / STOPPED).unlink(missing_ok=True)
        cut_back(path / METRICS, step, epoch)
        self._metrics: TextIO = (path / METRICS).open("a", encoding="utf-8")
        self._events = SummaryWriter(str(path / TENSORBOARD), purge_step=step + 1)

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a file of JSON, whole or not at all."""
        write_text(self.path / name, json.dumps(content, indent=2, sort_keys=True) + "\n")

    def log(self, line: Mapping[str, Any]) -> None:
        """Append one line (with `step`) to metrics.jsonl and its numbers to TensorBoard."""
        self._metrics.write(json.dumps(line) + "\n")
        self._metrics.flush()
        name = "validation" if "validation" in line else "train"
        for key, value in line.get("validation", line).items():
            if key not in ("step", "epoch") and isinstance(value, int | float):
                self._events.add_scalar(f"{name}/{key}", value, line["step"])

    def sync(self) -> None:
        """Make what was logged outlast a power cut: before a checkpoint says that these steps are done."""
        os.fsync(self._metrics.fileno())
        self._events.flush()

    def close(self) -> None:
        self._metrics.close()
        self._events.close()


def cut_back(metrics: Path, step: int, epoch: int) -> None:
    """Keep the training lines of the first `step` steps and the validation lines of the first `epoch` epochs."""
    if not metrics.exists():
        return
    done_lines = []
    for line in metrics.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
            done = entry["epoch"] <= epoch if "validation" in entry else entry["step"] <= step
        except (ValueError, KeyError, TypeError):
            done = False  # torn by a kill
        if done:
            done_lines.append(line)
    write_text(metrics, "".join(line + "\n" for line in done_lines))
