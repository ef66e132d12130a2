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
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from benchmarks.measure import descendants
from common.errors import UserError


class WorkerError(UserError):
    """A case's process ended in mid-work or does not answer: says which, and the last line that it printed."""


def fork_server(module: str) -> ForkServerContext:
    """Processes forked from a server that has imported `module`, and what torch's first step imports: else 3 s each."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module, "torch._dynamo"])
    return context


class Worker(contextlib.AbstractContextManager["Worker"]):
    """The object `make(*arguments)` in another process; it ends with the `with` statement.

    `missing` says why there is no such object: `make` raised ImportError, OSError or RuntimeError, or the process died.
    """

    def __init__(self, name: str, make: Callable[..., object], *arguments: object, seconds: float = 600.0) -> None:
        self.name, self.missing, self._seconds = name, "", seconds
        context = fork_server(make.__module__)
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
        with contextlib.suppress(ConnectionError):  # which reading the answer then meets
            self._connection.send((method, arguments))
        return self._answer()

    def _answer(self) -> Any:
        try:
            if self._connection.poll(self._seconds):
                return self._connection.recv()
            self.missing = f"{self.name}: no answer for {self._seconds:.0f} seconds"
        except (EOFError, ConnectionError):
            self._process.join(self._seconds)
            lines = Path(self._log.name).read_text(errors="replace").strip().splitlines() or ["nothing was logged"]
            self.missing = f"{self.name}: its process ended with {self._process.exitcode}: {lines[-1]}"
        raise WorkerError(self.missing)

    def __exit__(self, *error: object) -> None:
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
        made, missing = None, ""
        try:
            made = make(*arguments)
        except ImportError as error:
            missing = f"cannot be imported ({error}); `make bench-peers` installs it"
        except (OSError, RuntimeError) as error:
            missing = (str(error).strip() or type(error).__name__).splitlines()[0]
        connection.send(missing)
        while True:
            method, parameters = connection.recv()
            connection.send(getattr(made, method)(*parameters))
    except EOFError:  # the caller has done
        status = 0
    except Exception:  # noqa: BLE001  the caller reads the log's last line
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        kill_all(descendants())
        os._exit(status)


def kill_all(pids: list[int]) -> None:
    """End these processes at once; those that have gone already are gone."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
