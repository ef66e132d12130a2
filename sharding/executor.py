"""What runs tasks: this machine's processes, or a cluster's workers (dask.distributed); and how far they are."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver, resource_tracker
from typing import Any

from tqdm import tqdm

from sharding.record import ShardError

_WAIT_SECONDS = 30
_LINE_SECONDS = 30.0


@contextlib.contextmanager
def open_executor(workers: int, scheduler: str | None = None) -> Iterator[tuple[Executor, int]]:
    """What runs the tasks, and how many at a time: a cluster, processes that die with this one, or a thread."""
    if scheduler is not None:
        with _cluster(scheduler) as cluster:
            yield cluster
    elif workers == 1:
        with ThreadPoolExecutor(1) as threads:
            yield threads, 1
    else:
        prestart(workers)
        context = multiprocessing.get_context("forkserver")
        try:
            with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as processes:
                yield processes, workers
        except BrokenProcessPool:
            advice = "what is finished is kept: run the same command again, perhaps with fewer --workers"
            raise ShardError(f"a worker process died (out of memory?); {advice}") from None


def prestart(workers: int, scheduler: str | None = None) -> None:
    """Start what worker processes are forked from, if any will be: it imports what they need while the caller goes on.

    Ctrl-C is blocked in it from the first, else its imports would end in a traceback.
    """
    if workers > 1 and scheduler is None:
        resource_tracker.ensure_running()  # whose start, which comes first, would let Ctrl-C through again
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            forkserver.set_forkserver_preload(["sharding.job"])
            forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker() -> None:
    """Leave Ctrl-C to the main process, and die with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


def end_with_parent() -> None:
    """Let this process end when the one that started it has ended, however that was killed.

    A fork server's children are not told: it, not the starter, is their parent for the kernel.
    """

    def wait() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextlib.contextmanager
def _cluster(address: str) -> Iterator[tuple[Executor, int]]:
    """Connect to the dask scheduler at `address`; yields an executor and the number of its workers' threads.

    A task whose worker dies runs again on another. Raises ShardError if there is no scheduler, no worker, or no dask.
    """
    try:
        import distributed
    except ImportError:
        raise ShardError("--scheduler needs dask.distributed; install it with: pip install distributed") from None
    try:
        client = distributed.Client(address, timeout=_WAIT_SECONDS, set_as_default=False)
        client.wait_for_workers(1, timeout=_WAIT_SECONDS)
    except (OSError, ValueError) as error:
        advice = "start them with `dask scheduler` and `dask worker`, where this package is installed"
        what = f"no dask scheduler with a worker answers within {_WAIT_SECONDS} s ({error})"
        raise ShardError(f"{address}: {what}; {advice}") from None
    with client:
        try:
            yield client.get_executor(pure=False, retries=3), max(1, sum(client.nthreads().values()))
        except FileNotFoundError as error:
            where = f"SRC and OUT must lie where all workers of {address} see them"
            raise ShardError(f"{error.filename}: not found on a worker; {where}") from None


class PlainBar(tqdm):
    """A bar for files and pipes: each time that tqdm would draw it, and at its end, a line, if anything was done."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        if self.n > self.initial:
            self.fp.write(f"{self}\n")
            self.fp.flush()


def progress_bar(total: int, what: str, done: int = 0, quiet: bool = False) -> tqdm:
    """A bar over `total` images of which `done` are done, named `what`, for a `with` statement; none if `quiet`.

    On a terminal it is tqdm's, elsewhere one plain line every half minute, and one when it ends.
    """
    bar: dict[str, Any] = {"total": total, "initial": done, "unit": " image", "desc": what, "disable": quiet}
    if quiet or sys.stderr.isatty():
        return tqdm(mininterval=0.5, **bar)
    line = "{desc}: {n:,} of {total:,} images, {rate_noinv_fmt}, {remaining} left"
    return PlainBar(mininterval=_LINE_SECONDS, miniters=1, smoothing=0, leave=False, bar_format=line, **bar)
