"""The parent's side of the loaders' processes: start them, have their pixels compared, let them do a repeat."""

import multiprocessing
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from benchmarks.measure import Repeat
from benchmarks.peers import Entry
from benchmarks.peers.work import Job
from common.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SAME = 1e-2  # gray levels: float32 sums in another order
Pictures = dict[int, np.ndarray]


class PeerError(UserError):
    """A loader's process ended in mid-work: says which, and the last line that it printed."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far a peer's pictures are from ours, in gray levels, over `pictures` of the same ids and crops."""

    pictures: int
    mean: float
    highest: float

    @classmethod
    def between(cls, theirs: Pictures, ours: Pictures) -> "Difference":
        """Over the ids of `theirs`, which must all be in `ours`."""
        gaps = [np.abs(picture - ours[number]) for number, picture in theirs.items()]
        return cls(
            pictures=len(gaps),
            mean=float(np.mean([gap.mean() for gap in gaps])),
            highest=float(max(gap.max() for gap in gaps)),
        )

    def __str__(self) -> str:
        if self.highest <= SAME:
            return "same pixels"
        return f"PIXELS DIFFER by {self.mean:.2f} gray levels, at most {self.highest:.0f}"


class LoaderProcess:
    """One loader in a process of its own. `missing` says why it cannot run here, or is empty."""

    def __init__(self, entry: Entry, connection: "multiprocessing.connection.Connection", log: Path) -> None:
        self.entry, self.missing, self.difference, self._note = entry, "", "", ""
        self._connection, self._log = connection, log

    @property
    def note(self) -> str:
        """What a reader of the table should know of this loader, where it runs."""
        if self.missing:
            return ""
        return "; ".join(part for part in (self.difference, self._note) if part)

    def await_ready(self) -> None:
        """Waits until the loader is open, or has said what is missing, or has died."""
        try:
            said, self._note = self._answer()
        except PeerError as error:
            said = str(error)
        self.missing = next(iter(said.splitlines()), "")

    def repeat(self) -> Repeat:
        """One repeat of the work. Raises PeerError if the process dies."""
        return self._ask("repeat")

    def pictures(self, wanted: frozenset[int] | None = None) -> Pictures:
        """Pictures of an epoch by id, float32 [224, 224, 3]: the `wanted` ones, or some of the first batch.

        Raises PeerError if the process dies.
        """
        return self._ask("pictures", wanted)

    def _ask(self, command: str, *arguments: Any) -> Any:
        return self._answer((command, arguments))

    def _answer(self, question: Any = None) -> Any:
        try:
            if question is not None:
                self._connection.send(question)
            return self._connection.recv()
        except (EOFError, ConnectionError) as error:
            said = self._log.read_text(errors="replace").strip().splitlines() if self._log.exists() else []
            last = said[-1] if said else "nothing"
            raise PeerError(f"{self.entry.name}: its process ended; its last words: {last}") from error


class Nursery:
    """Where loaders' processes come from: one that has loaded torch and forks them, so that starting is quick.

    Use in a `with` statement; at its end all the processes end.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._control, theirs = socket.socketpair()
        self._connections: list[Any] = []
        with (folder / "nursery.log").open("wb") as log, theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.peers.child", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
            )

    def __enter__(self) -> "Nursery":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for connection in (*self._connections, self._control):
            connection.close()
        self._process.wait()

    def start(self, entry: Entry, job: Job, rows: np.ndarray, covariance_root: np.ndarray) -> LoaderProcess:
        """Starts a loader's process and returns at once; `rows` are its plan."""
        near, far = multiprocessing.Pipe()
        socket.send_fds(self._control, [b"+"], [far.fileno()])
        far.close()
        self._connections.append(near)
        log = self._folder / f"{len(self._connections)}.log"
        near.send((str(log), job, rows, covariance_root))
        return LoaderProcess(entry, near, log)
