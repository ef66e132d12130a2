"""A job under way: its folder and its lock, its tasks and what runs them, and the step that publishes it.

Workers make members of a tar of the samples of a part of a shard, and tar, index and note of all parts of a shard. So
no worker idles however few the shards, and a job that fails stops soon; how the parts are cut does not show in the
bytes.
"""

import contextlib
import fcntl
import json
import shutil
import sqlite3
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg

from common import ceil_div
from common.files import sync_folder, write_atomically, write_text
from sharding.manifest import MANIFEST, SUFFIX, ShardInfo, file_sha256
from sharding.options import PackOptions
from sharding.pack_index import SPOOL, Sample
from sharding.pictures import decode_stored, prepare_image
from sharding.record import Encoding, RejectedImage, ShardError
from sharding.shard import Entry, index_text, rows_of, sample_members, tar_end
from sharding.statistics import Sums

DRAFT = "draft.json"
"""The manifest without shards, written once the source is listed: what a half-done job must find unchanged."""

_SMALLEST_PART, _LARGEST_PART, _PARTS_PER_SLOT = 32, 512, 8


@dataclass(frozen=True)
class ShardNote(ShardInfo):
    """What is known of a finished shard; `<job>/<name>.npz` holds it, its rows of the table and its sums."""

    rejects: list[dict[str, str]]


def part_samples(samples: int, slots: int) -> int:
    """In parts of how many samples a job's shards are packed on `slots` workers: some for each, so that none idles."""
    return min(max(_SMALLEST_PART, ceil_div(samples, _PARTS_PER_SLOT * slots)), _LARGEST_PART)


def pack_part(tar: Path, samples: list[Sample], options: PackOptions) -> tuple[Path, int]:
    """Pack one part of the shard `tar` into a new file of the job; returns it, and how many pictures it was given.

    A cluster may run a task again while the first run still lives: each writes a file of its own, of which the job
    takes one. Every written picture is decoded again, and those pixels are summed for the statistics, in a file beside
    it, with what was packed and rejected. Raises OSError for a full disk or a source that cannot be read.
    """
    entries, rejects, sums = list[Entry](), list[dict[str, str]](), Sums()
    path = tar.parent / "job" / f"{tar.name}.{uuid.uuid4().hex}.part"
    with path.open("wb") as file:
        for sample in samples:
            try:
                picture = pack_picture(sample.read(), sums, options)
            except RejectedImage as error:
                rejects.append({"source": sample.source, "reason": str(error)})
                continue
            file.write(sample_members(sample.key, picture, sample.label, options.encoding))
            entries.append(Entry(sample.key, len(picture), sample.label))
    with sums_path(path).open("wb") as file:
        np.savez(file, note=json.dumps([entries, rejects]), **vars(sums))
    return path, len(samples)


def sums_path(part: Path) -> Path:
    """Where the sums over the pictures of a part lie, and what they are."""
    return part.with_suffix(".sums.part")


def join_parts(tar: Path, parts: list[Path], encoding: Encoding) -> ShardNote:
    """Make the shard of the files of its parts: tar, index, and what the job keeps of it last.

    The parts stay, so that it can be called again if the worker that joins them dies.
    """
    entries, rejects, sums = list[Entry](), list[dict[str, str]](), Sums()
    with write_atomically(tar) as file:
        for path in parts:
            with path.open("rb") as members:
                shutil.copyfileobj(members, file, 1 << 20)
            with np.load(sums_path(path)) as arrays:
                packed, rejected = json.loads(str(arrays["note"]))
            entries += [Entry(*row) for row in packed]
            rejects += rejected
            sums.merge(Sums.load(sums_path(path)))
        file.write(tar_end(file.tell()))
    write_text(tar.with_suffix(".idx"), index_text(entries, SUFFIX[encoding]))
    note = ShardNote(tar.name, len(entries), tar.stat().st_size, file_sha256(tar), rejects)
    with write_atomically(note_path(tar)) as file:
        np.savez(file, note=json.dumps(asdict(note)), rows=rows_of(entries), **vars(sums))
    return note


def note_path(tar: Path) -> Path:
    """Where the job keeps the note of a shard."""
    return tar.parent / "job" / f"{tar.stem}.npz"


def finished_note(tar: Path) -> ShardNote | None:
    """The note of a shard that an earlier run finished, or None if it must be packed."""
    if not all(path.exists() for path in (note_path(tar), tar, tar.with_suffix(".idx"))):
        return None
    with np.load(note_path(tar)) as arrays:
        note = ShardNote(**json.loads(str(arrays["note"])))
    return note if tar.stat().st_size == note.bytes else None


def pack_picture(data: bytes, sums: Sums, options: PackOptions) -> bytes:
    """Prepare one picture, decode what will be written, and add those pixels to `sums`; returns what to write."""
    stored = prepare_image(data, quality=options.quality, resample=options.resample, encoding=options.encoding)
    sums.add(decode_stored(stored, options.encoding))
    return stored


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
            busy = "another pack command is at work there; wait for it, or choose another OUT"
            raise ShardError(f"{work}: {busy}") from None
        begun = (folder / DRAFT).exists() or (work / MANIFEST).exists()
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
    shards: Iterable[tuple[Path, list[Sample]]], samples_per_part: int, options: PackOptions, executor: Executor,
    slots: int, bar: Any, notes: list[ShardNote],
) -> None:  # fmt: skip
    """Pack shards, each in parts, on `executor`, at most 2·slots tasks at a time in its queue; append their notes.

    `bar` counts pictures. On the first failure, or with too many pictures rejected, no other task begins; finished
    shards stay. Raises ShardError or OSError.
    """
    pending: dict[Future[Any], tuple[Path, list[Path | None], int]] = {}  # its shard, that one's parts, which of them

    def collect() -> None:
        for future in wait(pending, return_when=FIRST_COMPLETED).done:
            (tar, parts, number), result = pending.pop(future), future.result()
            if isinstance(result, ShardNote):
                notes.append(result)
                for path in filter(None, parts):
                    path.unlink()
                    sums_path(path).unlink()
                check_rejects(notes, options.max_rejects, tar.parent)
                continue
            parts[number], pictures = result
            bar.update(pictures)
            packed = [path for path in parts if path]
            if len(packed) == len(parts):
                pending[executor.submit(join_parts, tar, packed, options.encoding)] = tar, parts, -1

    try:
        for tar, samples in shards:
            parts: list[Path | None] = [None] * ceil_div(len(samples), samples_per_part)
            for number in range(len(parts)):
                part = samples[number * samples_per_part : (number + 1) * samples_per_part]
                pending[executor.submit(pack_part, tar, part, options)] = tar, parts, number
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
        what = f"{len(rejects)} pictures cannot be packed, --max-rejects allows {allowed}: {first}{more}"
        raise ShardError(f"{what}. Raise it to go on without them, or mend them, remove {work} and begin anew")


def commit_split(work: Path, final: Path) -> None:
    """Make a finished job the split: what the job alone needed goes, then the folder gets its name."""
    shutil.rmtree(work / "job")
    _sweep(work, "*.part")  # of a worker that died while it joined a shard, which another joined then
    work.rename(final)
    sync_folder(final.parent)


# Numba reads a kernel from its cache when it is first called, a quarter of a second for all. It is paid here, by the
# process that workers are forked from, which imports this module while the main process lists the source.
_GRAY = simplejpeg.encode_jpeg(np.full((300, 300, 3), 128, np.uint8))
pack_picture(_GRAY, Sums(), PackOptions(source=Path(), out=Path()))
