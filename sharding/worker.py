"""What workers do: the samples of a part of a shard → members of a tar; all parts of a shard → tar, index, note.

A shard is packed in parts, so that no worker idles however few the shards, and a job that fails stops soon; how the
parts are cut does not show in the bytes.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import simplejpeg

from common import ceil_div
from common.files import write_atomically
from sharding.manifest import SUFFIX, file_sha256
from sharding.options import PackOptions
from sharding.pack_index import Sample
from sharding.pictures import decode_stored, prepare_image
from sharding.record import Encoding, RejectedImage, Resample
from sharding.shard import Entry, ShardWriter, index_text, rows_of, tar_end
from sharding.statistics import Sums

_SMALLEST_PART, _LARGEST_PART, _PARTS_PER_SLOT = 32, 512, 8


@dataclass(frozen=True, kw_only=True)
class PartTask:
    """Everything that packing one part of a shard needs; travels to the worker.

    `tar` is the shard's file, `part` numbers its parts, `labels` are those of `samples`; `summed`: pixels are summed
    for the statistics.
    """

    tar: Path
    part: int
    samples: list[Sample]
    labels: list[int]
    options: PackOptions
    summed: bool

    @property
    def path(self) -> Path:
        """The file of this part's members."""
        return self.tar.with_name(f"{self.tar.name}.{self.part:06d}.part")


@dataclass(frozen=True, kw_only=True)
class Packed:
    """What packing a part or all of a shard gave: its samples in order, what was rejected, sums over its pictures."""

    entries: list[Entry]
    rejects: list[dict[str, str]]
    sums: Sums | None

    @classmethod
    def joined(cls, parts: Iterable["Packed"]) -> "Packed":
        """That of a shard, from its parts in order."""
        parts = list(parts)
        sums = [part.sums for part in parts if part.sums is not None]
        return cls(
            entries=[entry for part in parts for entry in part.entries],
            rejects=[reject for part in parts for reject in part.rejects],
            sums=Sums.merged(sums) if sums else None,
        )


@dataclass(frozen=True)
class ShardNote:
    """What is known of a finished shard; `<job>/<name>.npz` holds it, its rows of the table and its sums."""

    name: str
    samples: int
    bytes: int
    sha256: str
    index_sha256: str
    rejects: list[dict[str, str]]


def part_samples(samples: int, slots: int) -> int:
    """In parts of how many samples a job's shards are packed on `slots` workers: some for each, so that none idles."""
    return min(max(_SMALLEST_PART, ceil_div(samples, _PARTS_PER_SLOT * slots)), _LARGEST_PART)


def pack_part(task: PartTask) -> Packed:
    """Pack one part of a shard into `task.path`. Calling it again gives the same bytes.

    Every written picture is decoded again, and those pixels are summed if `task.summed`. Raises OSError for a full disk
    or a source that cannot be read.
    """
    sums, rejects, options = Sums() if task.summed else None, [], task.options
    with task.path.open("wb") as file:
        writer = ShardWriter(file, options.encoding)
        for sample, label in zip(task.samples, task.labels, strict=True):
            try:
                stored = pack_picture(sample.read(), sums, options.quality, options.resample, options.encoding)
            except RejectedImage as error:
                rejects.append({"source": sample.source, "reason": str(error)})
                continue
            writer.add(sample.key, stored, label)
    return Packed(entries=writer.entries, rejects=rejects, sums=sums)


def join_parts(tar: Path, parts: list[Path], packed: Packed, encoding: Encoding) -> ShardNote:
    """Make the shard of the files of its parts: tar, index, and what the job keeps of it last.

    The parts stay, so that it can be called again if the worker that joins them dies.
    """
    with write_atomically(tar) as file:
        for path in parts:
            with path.open("rb") as members:
                shutil.copyfileobj(members, file, 1 << 20)
        file.write(tar_end(file.tell()))
    index = index_text(packed.entries, SUFFIX[encoding]).encode()
    with write_atomically(tar.with_suffix(".idx")) as file:
        file.write(index)
    index_sha256 = hashlib.sha256(index).hexdigest()
    note = ShardNote(tar.name, len(packed.entries), tar.stat().st_size, file_sha256(tar), index_sha256, packed.rejects)
    sums = vars(packed.sums) if packed.sums else {}
    with write_atomically(note_path(tar)) as file:
        np.savez(file, note=json.dumps(asdict(note)), rows=rows_of(packed.entries), **sums)
    return note


def note_path(tar: Path) -> Path:
    """Where the job keeps the note of a shard."""
    return tar.parent / "job" / f"{tar.stem}.npz"


def finished_note(tar: Path) -> ShardNote | None:
    """The note of a shard that an earlier run finished, or None if it must be packed."""
    if not note_path(tar).exists() or not tar.exists():
        return None
    with np.load(note_path(tar)) as arrays:
        note = ShardNote(**json.loads(str(arrays["note"])))
    return note if tar.stat().st_size == note.bytes else None


def pack_picture(data: bytes, sums: Sums | None, quality: int, resample: Resample, encoding: Encoding) -> bytes:
    """Prepare one picture, decode what will be written, and add those pixels to `sums`; returns what to write."""
    stored = prepare_image(data, quality=quality, resample=resample, encoding=encoding)
    pixels = decode_stored(stored, encoding)
    if sums is not None:
        sums.add(pixels)
    return stored


# Numba reads a kernel from its cache when it is first called, a quarter of a second for all. It is paid here, by the
# process that workers are forked from, which imports this module while the main process lists the source.
pack_picture(simplejpeg.encode_jpeg(np.full((300, 300, 3), 128, np.uint8)), Sums(), 95, "area", "jpeg")
