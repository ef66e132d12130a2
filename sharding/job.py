"""The folder of a job under way: its lock, its options, its workers, and the step that publishes it."""

import contextlib
import fcntl
import json
import logging
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sharding.errors import ShardError
from sharding.manifest import write_atomically
from sharding.worker import Progress, ShardNote, ShardTask, pack_shard

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.3


@contextlib.contextmanager
def open_job(work: Path, identity: dict[str, Any]) -> Iterator[Path]:
    """Enter the job folder `work`, alone; yields `work/job`. Raises ShardError if it was begun with other options."""
    job = work / "job"
    job.mkdir(parents=True, exist_ok=True)
    with (job / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ShardError(
                f"{work}: another pack command is at work there; wait for it, or choose another OUT"
            ) from None
        _check_identity(work, job / "options.json", identity)
        for part in (*work.glob("*.part"), *job.glob("*.part")):
            part.unlink()
        (job / "progress").unlink(missing_ok=True)
        yield job


def _check_identity(work: Path, path: Path, identity: dict[str, Any]) -> None:
    if not path.exists():
        with write_atomically(path) as file:
            file.write(json.dumps(identity, indent=1).encode())
        return
    begun = json.loads(path.read_bytes())
    changed = describe_changes(begun, identity)
    if changed:
        raise ShardError(
            f"{work}: a half-done job, begun with other options: {changed}; "
            "give its options to carry on, or remove the folder to begin anew"
        )


def describe_changes(begun: dict[str, Any], now: dict[str, Any]) -> str:
    """Which options differ, in words; empty if none."""
    names = sorted({*begun, *now})
    changes = [
        f"{name} was {begun.get(name)}, now {now.get(name)}" for name in names if begun.get(name) != now.get(name)
    ]
    return ", ".join(changes)


@contextlib.contextmanager
def local_executor(workers: int) -> Iterator[Executor]:
    """Worker processes that die with this one (a thread for one worker)."""
    if workers == 1:
        with ThreadPoolExecutor(1) as executor:
            yield executor
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sharding.worker"])
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as executor:
        yield executor


def _start_worker() -> None:
    """Leave Ctrl-C to the main process, and die with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_die_with, args=(parent,), daemon=True).start()


def _die_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def run_tasks(
    tasks: Iterator[ShardTask], executor: Executor, slots: int, job: Path, bar: "tqdm[Any]", rejects_left: int
) -> list[ShardNote]:
    """Pack shards on `executor`, at most 2·slots at a time in its queue. Returns their notes in the order they end.

    On the first failure, or with more than `rejects_left` pictures rejected, the others are stopped; finished shards
    stay. Raises ShardError or OSError.
    """
    notes: list[ShardNote] = []
    pending: set[Future[ShardNote]] = set()
    try:
        for task in tasks:
            pending.add(executor.submit(pack_shard, task))
            while len(pending) >= 2 * slots:
                pending = _collect(pending, notes, job, bar, rejects_left)
        while pending:
            pending = _collect(pending, notes, job, bar, rejects_left)
    except BrokenProcessPool:
        raise ShardError(
            f"{job.parent}: a worker process died (out of memory?); finished shards are kept: "
            "run the same command again, perhaps with fewer --workers"
        ) from None
    except BaseException:
        Progress.stop(job)
        for future in pending:
            future.cancel()
        wait(pending)
        raise
    return notes


def _collect(
    pending: set[Future[ShardNote]], notes: list[ShardNote], job: Path, bar: "tqdm[Any]", rejects_left: int
) -> set[Future[ShardNote]]:
    """Wait a moment for shards to end; take their notes and show the progress. Returns those still pending."""
    done, pending = wait(pending, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
    notes.extend(future.result() for future in done)
    bar.update(bar.initial + Progress.total(job) - bar.n)
    check_rejects([reject for note in notes for reject in note.rejects], rejects_left, job.parent)
    return pending


def check_rejects(rejects: list[dict[str, str]], allowed: int, work: Path) -> None:
    """Raise ShardError if more pictures were rejected than allowed."""
    if len(rejects) > allowed:
        first = "; ".join(f"{reject['source']}: {reject['reason']}" for reject in rejects[:3])
        raise ShardError(
            f"{len(rejects)} pictures cannot be packed, over the limit of --max-rejects: {first}; … "
            f"raise --max-rejects to go on without them, or mend them, remove {work} and begin anew"
        )


def publish(work: Path, final: Path) -> None:
    """Make a finished job the split: its manifest is written, so only what the job alone needed goes."""
    shutil.rmtree(work / "job", ignore_errors=False)
    work.rename(final)
