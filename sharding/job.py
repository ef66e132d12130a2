"""The folder of a job under way: its lock, its options, its tasks, and the step that publishes it."""

import contextlib
import fcntl
import json
import shutil
import sqlite3
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.files import sync_folder, write_atomically
from sharding.errors import ShardError
from sharding.progress import Bar
from sharding.worker import PackedPart, PartTask, Progress, ShardNote, join_parts, pack_part, pack_shard

_POLL_SECONDS = 0.3


@contextlib.contextmanager
def open_job(work: Path, identity: dict[str, Any]) -> Iterator[Path]:
    """Enter the job folder `work`, alone; yields `work/job`. Without a finished shard, it does not outlive an error.

    Nor does the folder around it, if there was none before. Raises ShardError if the job was begun with other options,
    or if another process is in it.
    """
    folder = work / "job"
    made = [parent for parent in work.parents if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ShardError(
                f"{work}: another pack command is at work there; wait for it, or choose another OUT"
            ) from None
        _check_identity(work, folder / "options.json", identity)
        _sweep(work)
        (folder / "progress").unlink(missing_ok=True)
        try:
            yield folder
        except sqlite3.Error as error:
            raise ShardError(f"{folder}: its index: {error}; make room, and run the same command again") from None
        finally:
            spooled = (folder / "spool").exists() and (folder / "listing.json").exists()
            if work.exists() and not any(work.glob("*.tar")) and not spooled:
                shutil.rmtree(work)  # nothing in it is worth carrying on with
                with contextlib.suppress(OSError):  # what others put there stays
                    for parent in made:
                        parent.rmdir()


def _sweep(work: Path) -> None:
    """Remove what workers that died left half-written."""
    for part in work.rglob("*.part"):
        part.unlink()


def _check_identity(work: Path, path: Path, identity: dict[str, Any]) -> None:
    if not path.exists():
        with write_atomically(path) as file:
            file.write(json.dumps(identity, indent=1).encode())
        return
    changed = describe_changes(json.loads(path.read_bytes()), identity)
    if changed:
        raise ShardError(
            f"{work}: a half-done job, begun with other options: {changed}; "
            "give its options to carry on, or remove the folder to begin anew"
        )


def describe_changes(begun: dict[str, Any], now: dict[str, Any]) -> str:
    """Which options differ, in words; empty if none."""
    names = [name for name in sorted({*begun, *now}) if begun.get(name) != now.get(name)]
    return ", ".join(f"{name} was {begun.get(name)}, now {now.get(name)}" for name in names)


def run_tasks(
    shards: Iterator[list[PartTask]],
    executor: Executor,
    slots: int,
    folder: Path,
    bar: Bar,
    notes: list[ShardNote],
    max_rejects: int,
) -> None:
    """Pack shards, each in parts, on `executor`, at most 2·slots tasks at a time in its queue; append their notes.

    On the first failure, or with more than `max_rejects` pictures rejected, the others are stopped; finished shards
    stay. Raises ShardError or OSError.
    """
    pending: dict[Future[Any], tuple[list[PartTask], int | None]] = {}  # a shard's parts; which one, None: the shard
    packed: dict[str, dict[int, PackedPart]] = {}

    def collect() -> None:
        for future in wait(pending, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED).done:
            parts, number = pending.pop(future)
            if number is None:
                notes.append(future.result())
                for part in parts:
                    part.path.unlink(missing_ok=True)
                continue
            results = packed.setdefault(parts[0].name, {})
            results[number] = future.result()
            if len(results) == len(parts):
                results = packed.pop(parts[0].name)
                ordered = [results[number] for number in range(len(parts))]
                pending[executor.submit(join_parts, parts, ordered)] = (parts, None)
        bar.update(bar.initial + Progress.total(folder) - bar.n)
        check_rejects(notes, max_rejects, folder.parent)

    try:
        for tasks in shards:
            parts = [replace(task, samples=[], labels=[]) for task in tasks]  # all that joining them needs
            for task in tasks:
                if len(parts) == 1:
                    pending[executor.submit(pack_shard, task)] = (parts, None)
                else:
                    pending[executor.submit(pack_part, task)] = (parts, task.part)
                while len(pending) >= 2 * slots:
                    collect()
        while pending:
            collect()
    except BaseException:
        Progress.stop(folder)
        for future in pending:
            future.cancel()
        wait(pending)
        raise


def check_rejects(notes: list[ShardNote], allowed: int, work: Path) -> None:
    """Raise ShardError if more pictures were rejected than allowed."""
    rejects = [reject for note in notes for reject in note.rejects]
    if len(rejects) > allowed:
        first = "; ".join(f"{reject['source']}: {reject['reason']}" for reject in rejects[:3])
        more = "; …" if len(rejects) > 3 else ""
        raise ShardError(
            f"{len(rejects)} pictures cannot be packed, --max-rejects allows {allowed}: {first}{more}. "
            f"Raise it to go on without them, or mend them, remove {work} and begin anew"
        )


def commit_split(work: Path, final: Path) -> None:
    """Make a finished job the split: what the job alone needed goes, then the folder gets its name."""
    shutil.rmtree(work / "job")
    _sweep(work)
    work.rename(final)
    sync_folder(final.parent)
