"""Work in a process of its own, forked from multiprocessing's fork server, which has imported what it needs once.

with own_process(__name__) as process:
    process.submit(hold, Stepping, job).result()      an object is made there, and stays
    held(process, "repeat")                           what its method returns; errors come here as they are
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import ForkServerContext
from typing import Any

from tqdm import tqdm

from benchmarks.measure import family
from sharding.executor import end_with_parent

FIRST_STEP = "torch._dynamo"  # what torch imports at its first training step: a second
_object: Any = None


def fork_server(*modules: str) -> ForkServerContext:
    """Processes forked from a server that has imported `modules`: torch alone costs each 2 s of a core else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(modules))
    return context


@contextlib.contextmanager
def own_process(*modules: str) -> Iterator[ProcessPoolExecutor]:
    """An executor of one process, which is killed at the end with its children: loaders' threads would go on."""
    with ProcessPoolExecutor(1, fork_server(*modules), _begin) as process:
        process_id = process.submit(os.getpid)
        try:
            yield process
        finally:
            for pid in family(process_id.result()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def hold(make: Callable[..., object], *arguments: object) -> None:
    """In the process: make an object and keep it."""
    global _object
    _object = make(*arguments)


def held(process: ProcessPoolExecutor, method: str) -> Any:
    """What a method of the object that the process holds returns. Raises what it raises, or BrokenProcessPool."""
    return process.submit(_call, method).result()


def _begin() -> None:
    tqdm.set_lock(threading.RLock())  # its own is a semaphore, which a process that is killed would leave behind
    end_with_parent()


def _call(method: str) -> Any:
    return getattr(_object, method)()
