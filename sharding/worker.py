"""What one worker does: the samples of one shard → tar, index, sums, and last the note that says that it is whole."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from common.files import write_atomically
from sharding.errors import RejectedImage, ShardError
from sharding.pack_index import Sample
from sharding.resize import Resample, decode_stored, prepare_image
from sharding.shard import Encoding, ShardWriter
from sharding.statistics import Sums

_REPORT_EVERY = 32


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """Everything that packing one shard needs; travels to the worker. `labels` are those of `samples`."""

    number: int
    name: str
    folder: Path
    samples: list[Sample]
    labels: list[int]
    quality: int
    resample: Resample
    encoding: Encoding
    summed: bool


@dataclass(frozen=True)
class ShardNote:
    """What is known of a finished shard; `<job>/<name>.json` holds it, written last."""

    name: str
    samples: int
    bytes: int
    sha256: str
    rejects: list[dict[str, str]]


class Stopped(ShardError):
    """The job was told to stop; its unfinished shards are thrown away."""


def pack_shard(task: ShardTask) -> ShardNote:
    """Pack one shard into `task.folder` and return its note. Calling it again gives the same bytes.

    Every written picture is decoded again, and those pixels are summed if `task.summed`. Raises OSError for a full disk
    or a source that cannot be read, Stopped if the job was stopped.
    """
    job = task.folder / "job"
    sums, rejects = Sums(), []
    with write_atomically(task.folder / task.name) as file, Progress(job, task.number) as progress:
        shard = ShardWriter(file, task.encoding)
        for done, (sample, label) in enumerate(zip(task.samples, task.labels, strict=True)):
            if done % _REPORT_EVERY == 0:
                progress.report(done)
            try:
                stored = pack_picture(
                    sample.read(), sums if task.summed else None, task.quality, task.resample, task.encoding
                )
            except RejectedImage as error:
                rejects.append({"source": sample.source, "reason": error.reason})
                continue
            shard.add(sample.key, stored, label)
        shard.finish()
        progress.report(len(task.samples))
    with write_atomically((task.folder / task.name).with_suffix(".idx")) as file:
        file.write(shard.index().encode())
    if task.summed:
        sums.save(job / f"{task.name}.npz")
    note = ShardNote(task.name, shard.samples, shard.bytes, shard.sha256, rejects)
    with write_atomically(job / f"{task.name}.json") as file:
        file.write(json.dumps(asdict(note)).encode())
    return note


def finished_note(folder: Path, name: str) -> ShardNote | None:
    """The note of a shard that an earlier run finished, or None if it must be packed."""
    note_path, tar = folder / "job" / f"{name}.json", folder / name
    if not note_path.exists() or not tar.exists():
        return None
    note = ShardNote(**json.loads(note_path.read_bytes()))
    return note if tar.stat().st_size == note.bytes else None


def pack_picture(data: bytes, sums: Sums | None, quality: int, resample: Resample, encoding: Encoding) -> bytes:
    """Prepare one picture, decode what will be written, and add those pixels to `sums`; returns what to write."""
    stored = prepare_image(data, quality=quality, resample=resample, encoding=encoding)
    pixels = decode_stored(stored, encoding)
    if sums is not None:
        sums.add(pixels)
    return stored


class Progress:
    """Counts of pictures done, one slot of 8 bytes a shard in `<job>/progress`, and a stop mark in the first."""

    def __init__(self, job: Path, number: int) -> None:
        self._path, self._slot = job / "progress", 8 * (number + 1)

    def __enter__(self) -> "Progress":
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._descriptor)

    def report(self, done: int) -> None:
        """Write this shard's count. Raises Stopped if the job was told to stop."""
        os.pwrite(self._descriptor, done.to_bytes(8, "little"), self._slot)
        if any(os.pread(self._descriptor, 8, 0)):
            raise Stopped("the job was stopped")

    @staticmethod
    def stop(job: Path) -> None:
        """Tell all workers to stop."""
        with Progress(job, 0) as progress:
            os.pwrite(progress._descriptor, b"\1", 0)

    @staticmethod
    def total(job: Path) -> int:
        """Pictures done in all shards."""
        path = job / "progress"
        return int(np.frombuffer(path.read_bytes(), "<u8")[1:].sum()) if path.exists() else 0
