"""The folder of a job under way: its lock, its tasks, and the step that publishes it."""

import contextlib
import fcntl
import shutil
import sqlite3
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from pathlib import Path
from typing import Any

from common.files import sync_folder
from sharding.pack_index import SPOOL
from sharding.record import ShardError
from sharding.worker import Packed, PartTask, ShardNote, join_parts, pack_part

DRAFT = "draft.json"
"""The manifest without shards, written once the source is listed: what a half-done job must find unchanged."""


@contextlib.contextmanager
def open_job(work: Path) -> Iterator[Path]:
    """Enter the job folder `work`, alone; yields `work/job`. With nothing to go on with, it does not outlive an error.

    Nor does the folder around it, if there was none before. Raises ShardError if another process is in it.
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
        begun = (folder / DRAFT).exists() or (work / "manifest.json").exists()
        _sweep(work, "*.part" if begun else "*-*")  # without a draft, nobody knows what the shards are of
        try:
            yield folder
        except sqlite3.Error as error:
            raise ShardError(f"{folder}: its index: {error}; make room, and run the same command again") from None
        finally:
            if work.exists():
                _sweep(work, "*.part")
                spooled = (folder / SPOOL).exists() and (folder / DRAFT).exists()
                if not any(work.glob("*.tar")) and not spooled:
                    shutil.rmtree(work)  # nothing in it is worth carrying on with
                    with contextlib.suppress(OSError):  # what others put there stays
                        for parent in made:
                            parent.rmdir()


def _sweep(work: Path, pattern: str) -> None:
    """Remove such files: parts, and what workers that died left half-written."""
    for path in work.rglob(pattern):
        path.unlink()


def run_tasks(
    shards: Iterator[list[PartTask]], executor: Executor, slots: int, bar: Any, notes: list[ShardNote], max_rejects: int
) -> None:
    """Pack shards, each in parts, on `executor`, at most 2·slots tasks at a time in its queue; append their notes.

    `bar` counts pictures. On the first failure, or with more than `max_rejects` pictures rejected, no other task
    begins; finished shards stay. Raises ShardError or OSError.
    """
    pending: dict[Future[Any], tuple[list[PartTask], int | None]] = {}  # a shard's parts; which one, None: the shard
    packed: dict[Path, dict[int, Packed]] = {}

    def collect() -> None:
        for future in wait(pending, return_when=FIRST_COMPLETED).done:
            (parts, number), result = pending.pop(future), future.result()
            tar, files = parts[0].tar, [part.path for part in parts]
            if number is None:
                notes.append(result)
                for file in files:
                    file.unlink()
                check_rejects(notes, max_rejects, tar.parent)
                continue
            bar.update(len(result.entries) + len(result.rejects))
            of_shard = packed.setdefault(tar, {})
            of_shard[number] = result
            if len(of_shard) == len(parts):
                del packed[tar]
                whole = Packed.joined(of_shard[part.part] for part in parts)
                pending[executor.submit(join_parts, tar, files, whole, parts[0].options.encoding)] = (parts, None)

    try:
        for parts in shards:
            for part in parts:
                pending[executor.submit(pack_part, part)] = (parts, part.part)
                while len(pending) >= 2 * slots:
                    collect()
        while pending:
            collect()
    except BaseException:
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
    work.rename(final)
    sync_folder(final.parent)
