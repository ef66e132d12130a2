"""What workers do: the samples of a part of a shard → members of a tar; all parts of a shard → tar, index, note.

Parts make as many workers busy as there are, however few the shards; how they are cut does not show in the bytes.
"""

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from common import ceil_div
from common.files import write_atomically
from sharding.errors import RejectedImage, ShardError
from sharding.manifest import file_sha256
from sharding.pack_index import Sample
from sharding.record import Encoding, Resample
from sharding.resize import decode_stored, prepare_image
from sharding.shard import SUFFIX, Entry, ShardWriter, index_text, rows_of, tar_end
from sharding.statistics import Sums

_REPORT_EVERY = 32
_SMALLEST_PART = 32
_PARTS_PER_SLOT = 8


@dataclass(frozen=True, kw_only=True)
class PartTask:
    """Everything that packing one of the `parts` of shard `name` needs; travels to the worker.

    `labels` are those of `samples`; `slot` numbers the tasks of a job; `summed`: pixels are summed for the statistics.
    """

    slot: int
    name: str
    part: int
    parts: int
    folder: Path
    samples: list[Sample]
    labels: list[int]
    quality: int
    resample: Resample
    encoding: Encoding
    summed: bool

    @property
    def path(self) -> Path:
        """The file of this part's members."""
        return self.folder / f"{self.name}.{self.part:06d}.part"


@dataclass(frozen=True, kw_only=True)
class PackedPart:
    """What packing a part gave: its samples in order, what was rejected, and the sums over its pictures."""

    entries: list[Entry]
    rejects: list[dict[str, str]]
    sums: Sums | None


@dataclass(frozen=True)
class ShardNote:
    """What is known of a finished shard; `<job>/<name>.json` holds it, written last."""

    name: str
    samples: int
    bytes: int
    sha256: str
    index_sha256: str
    rejects: list[dict[str, str]]


class Stopped(ShardError):
    """The job was told to stop; its unfinished shards are thrown away."""


def part_samples(samples: int, slots: int) -> int:
    """In parts of how many samples a job's shards are packed on `slots` workers: some for each, so that none idles."""
    return samples if slots == 1 else max(_SMALLEST_PART, ceil_div(samples, _PARTS_PER_SLOT * slots))


def pack_shard(task: PartTask) -> ShardNote:
    """Pack a shard that is not cut into parts. Raises what `pack_part` raises."""
    return join_parts([task], [pack_part(task)])


def pack_part(task: PartTask) -> PackedPart:
    """Pack one part of a shard into `task.path`. Calling it again gives the same bytes.

    Every written picture is decoded again, and those pixels are summed if `task.summed`. Raises OSError for a full disk
    or a source that cannot be read, Stopped if the job was stopped.
    """
    sums, rejects = Sums() if task.summed else None, []
    with write_atomically(task.path) as file, Progress(task.folder / "job", task.slot) as progress:
        writer = ShardWriter(file, task.encoding)
        for done, (sample, label) in enumerate(zip(task.samples, task.labels, strict=True)):
            if done % _REPORT_EVERY == 0:
                progress.report(done)
            try:
                stored = pack_picture(sample.read(), sums, task.quality, task.resample, task.encoding)
            except RejectedImage as error:
                rejects.append({"source": sample.source, "reason": error.reason})
                continue
            writer.add(sample.key, stored, label)
        if task.parts == 1:
            writer.finish()
        progress.report(len(task.samples))
    return PackedPart(entries=writer.entries, rejects=rejects, sums=sums)


def join_parts(tasks: list[PartTask], packed: list[PackedPart]) -> ShardNote:
    """Make the shard of its packed parts: tar, index, rows of the table, sums, and the note last.

    The parts stay, so that it can be called again if the worker that joins them dies. A single part is the tar already.
    """
    first = tasks[0]
    tar, job = first.folder / first.name, first.folder / "job"
    if len(tasks) > 1:
        with write_atomically(tar) as file:
            for task in tasks:
                with task.path.open("rb") as members:
                    shutil.copyfileobj(members, file, 1 << 20)
            file.write(tar_end(file.tell()))
    elif first.path.exists():
        first.path.replace(tar)
    entries = [entry for part in packed for entry in part.entries]
    rejects = [reject for part in packed for reject in part.rejects]
    index = index_text(entries, SUFFIX[first.encoding]).encode()
    with write_atomically(tar.with_suffix(".idx")) as file:
        file.write(index)
    with write_atomically(job / f"{tar.name}.npy") as file:
        np.save(file, rows_of(entries))
    if first.summed:
        Sums.merged(part.sums for part in packed if part.sums).save(job / f"{tar.name}.npz")
    index_sha256 = hashlib.sha256(index).hexdigest()
    note = ShardNote(tar.name, len(entries), tar.stat().st_size, file_sha256(tar), index_sha256, rejects)
    with write_atomically(job / f"{tar.name}.json") as file:
        file.write(json.dumps(asdict(note)).encode())
    return note


def finished_note(folder: Path, name: str) -> ShardNote | None:
    """The note of a shard that an earlier run finished, or None if it must be packed."""
    note_path, tar = folder / "job" / f"{name}.json", folder / name
    if not note_path.exists() or not tar.exists():
        return None
    try:
        note = ShardNote(**json.loads(note_path.read_bytes()))
    except TypeError:  # begun by version 0.1, which made no rows of the table
        return None
    return note if tar.stat().st_size == note.bytes else None


def pack_picture(data: bytes, sums: Sums | None, quality: int, resample: Resample, encoding: Encoding) -> bytes:
    """Prepare one picture, decode what will be written, and add those pixels to `sums`; returns what to write."""
    stored = prepare_image(data, quality=quality, resample=resample, encoding=encoding)
    pixels = decode_stored(stored, encoding)
    if sums is not None:
        sums.add(pixels)
    return stored


class Progress:
    """Counts of pictures done, one slot of 8 bytes a task in `<job>/progress`, and a stop mark in the first."""

    def __init__(self, job: Path, slot: int) -> None:
        self._path, self._offset = job / "progress", 8 * (slot + 1)

    def __enter__(self) -> "Progress":
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._descriptor)

    def report(self, done: int) -> None:
        """Write this task's count. Raises Stopped if the job was told to stop."""
        os.pwrite(self._descriptor, done.to_bytes(8, "little"), self._offset)
        if any(os.pread(self._descriptor, 8, 0)):
            raise Stopped("the job was stopped")

    @staticmethod
    def stop(job: Path) -> None:
        """Tell all workers to stop."""
        with Progress(job, 0) as progress:
            os.pwrite(progress._descriptor, b"\1", 0)

    @staticmethod
    def total(job: Path) -> int:
        """Pictures done in all tasks."""
        path = job / "progress"
        return int(np.frombuffer(path.read_bytes(), "<u8")[1:].sum()) if path.exists() else 0
