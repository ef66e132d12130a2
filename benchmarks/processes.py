"""A case in a process of its own, forked from multiprocessing's fork server, which has imported its module once.

Enters: a function that makes an object. Leaves: what the methods of that object return, over a pipe.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.measure import descendants
from common.errors import UserError

ANSWER_SECONDS = 600.0


class WorkerError(UserError):
    """A case's process ended in mid-work or does not answer: says which, and the last line that it printed."""


class Worker:
    """The object `make(*arguments)` in another process; it ends with the `with` statement.

    `missing` says why there is no such object: `make` raised ImportError, OSError or RuntimeError, or the process died.
    """

    def __init__(
        self, name: str, make: Callable[..., object], *arguments: object, seconds: float = ANSWER_SECONDS
    ) -> None:
        self.name, self.missing, self._seconds = name, "", seconds
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([make.__module__])  # with torch: 2 s of a core for each process
        self._log = tempfile.NamedTemporaryFile(prefix="benchmark-", suffix=".log")  # noqa: SIM115
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, self._log.name, make, arguments))
        self._process.start()
        theirs.close()

    def await_ready(self) -> bool:
        """Waits until the object is made, or `missing` says why it is not. Returns whether it is."""
        with contextlib.suppress(WorkerError):  # which `missing` then says
            self.missing = self._answer()
        return not self.missing

    def call(self, method: str, *arguments: object) -> Any:
        """What `method` of the object returns. Raises WorkerError if the process has died or dies over it."""
        try:
            self._connection.send((method, arguments))
        except ConnectionError:
            self._died()
        return self._answer()

    def _answer(self) -> Any:
        if not self._connection.poll(self._seconds):
            self.missing = f"{self.name}: no answer for {self._seconds:.0f} seconds"
            raise WorkerError(self.missing)
        try:
            return self._connection.recv()
        except (EOFError, ConnectionError):
            self._died()

    def _died(self) -> None:
        lines = Path(self._log.name).read_text(errors="replace").strip().splitlines()
        self._process.join(self._seconds)
        last = lines[-1] if lines else "nothing was logged"
        self.missing = f"{self.name}: its process ended with {self._process.exitcode}: {last}"
        raise WorkerError(self.missing)

    def __enter__(self) -> "Worker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()
        self._process.join(10)
        if self._process.is_alive():
            kill_all(descendants(self._process.pid))
            self._process.kill()
        self._log.close()


def serve(connection: Connection, log: str, make: Callable[..., object], arguments: tuple[object, ...]) -> None:
    """The whole life of the process. Never returns: loaders' threads would keep the interpreter from ending."""
    status = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        _serve_object(connection, make, arguments)
        status = 0
    finally:
        if status:
            traceback.print_exc()
        sys.stderr.flush()
        kill_all(descendants())
        os._exit(status)


def kill_all(pids: list[int]) -> None:
    """End these processes at once; those that have gone already are gone."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _serve_object(connection: Connection, make: Callable[..., object], arguments: tuple[object, ...]) -> None:
    try:
        made = make(*arguments)
    except ImportError as error:
        connection.send(f"cannot be imported ({error}); `make bench-peers` installs it")
        return
    except (OSError, RuntimeError) as error:
        connection.send((str(error).strip() or type(error).__name__).splitlines()[0])
        return
    connection.send("")
    while True:
        try:
            method, parameters = connection.recv()
        except EOFError:
            return
        connection.send(getattr(made, method)(*parameters))
