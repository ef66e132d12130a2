"""One shard: a tar of `<key>.jpg|.npy` and `<key>.cls` members, and DALI's index beside it; a split's `samples.npy`.

Shards are plain ustar with fixed times, owner and mode. `webdataset`, `tar` and `fn.readers.webdataset` read them
unchanged. `samples.npy` tells where each sample lies and its label, so that a split of any size opens at once: one row
a sample, in the order of ids, and a last row that binds it to the shards of the manifest. It is mapped, not read: the
processes of a node share its pages.
"""

import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.files import write_atomically
from sharding.manifest import SUFFIX, Manifest, ShardInfo
from sharding.record import Encoding, ShardError

TABLE = "samples.npy"

LARGEST = 2**31 - 1
"""A picture's size is kept as int32."""

KEY_BYTES = 90
"""Longer keys end in a hash: ustar holds names of 100 bytes."""

BLOCK = 512
"""Tar counts in blocks of so many bytes: a header is one, contents are filled up to blocks."""

ROW = np.dtype([("picture_start", "<i8"), ("picture_bytes", "<i4"), ("label", "<i4")])
"""One sample: the picture's first byte in its tar, the picture's size, and the label."""

Size = TypeVar("Size", int, NDArray[np.int64])
_PLAIN = re.compile(rb"[^A-Za-z0-9_/-]")


def sample_key(name: str) -> str:
    """A picture's relative path → its key: without the last suffix, other bytes percent-escaped, at most 90 bytes.

    One-to-one but for the hash of long names. A leading double underscore is escaped too, since `webdataset` takes
    `__name__` for metadata.
    """
    folder, slash, base = name.rpartition("/")
    stem = base[: base.rfind(".")] if base.rfind(".") > 0 else base
    raw = (folder + slash + stem).encode("utf-8", "surrogateescape")
    key = _PLAIN.sub(lambda match: b"%%%02X" % match[0][0], raw).decode("ascii")
    if key.startswith("__"):
        key = "%5F" + key[1:]
    if len(key) > KEY_BYTES:
        key = key[: KEY_BYTES - 33] + "-" + hashlib.sha256(raw).hexdigest()[:32]
    return key


class Entry(NamedTuple):
    """One sample of a shard; where its bytes lie follows from those before it."""

    key: str
    picture_bytes: int
    label: int


class ShardWriter:
    """Writes samples to `file` as members of a tar. The same samples give the same bytes."""

    def __init__(self, file: IO[bytes], encoding: Encoding) -> None:
        self._file = file
        self._suffix = SUFFIX[encoding]
        self.entries: list[Entry] = []
        self.bytes = 0

    def add(self, key: str, picture: bytes, label: int) -> None:
        """Append one sample: its picture, then its label in ASCII."""
        for suffix, content in ((self._suffix, picture), ("cls", str(label).encode())):
            header = tarfile.TarInfo(f"{key}.{suffix}")  # mode 644, owner 0, time 0
            header.size = len(content)
            self._write(header.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % BLOCK))
        self.entries.append(Entry(key, len(picture), label))

    def finish(self) -> None:
        """Append the end of the archive."""
        self._write(tar_end(self.bytes))

    def index(self) -> str:
        """The text of the `.idx` file."""
        return index_text(self.entries, self._suffix)

    def _write(self, content: bytes) -> None:
        self._file.write(content)
        self.bytes += len(content)


def tar_end(size: int) -> bytes:
    """What ends a tar with `size` bytes of members: two empty blocks, filled up to tar's record of 10,240 bytes."""
    return bytes(-(size + 2 * BLOCK) % tarfile.RECORDSIZE + 2 * BLOCK)


def member_bytes(size: Size) -> Size:
    """What a member of `size` bytes takes in a tar: its header, and its content filled up to blocks."""
    return BLOCK + size + -size % BLOCK


def _layout(pictures: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where pictures and labels of such sizes lie in a tar: members without a gap, each after its header."""
    picture_members, label_members = (member_bytes(np.array(sizes, np.int64)) for sizes in (pictures, labels))
    picture_start = BLOCK + np.cumsum(picture_members + label_members) - picture_members - label_members
    return picture_start, picture_start + picture_members


def _starts(entries: list[Entry]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return _layout([entry.picture_bytes for entry in entries], [len(str(entry.label)) for entry in entries])


def rows_of(entries: list[Entry]) -> NDArray[np.void]:
    """The rows of one shard's samples."""
    starts = _starts(entries)[0].tolist()
    return np.array([(start, entry.picture_bytes, entry.label) for start, entry in zip(starts, entries)], ROW)


def index_text(entries: list[Entry], suffix: str) -> str:
    """The text of the `.idx` file of a shard, as DALI's wds2idx prints it (v1.2)."""
    lines = [
        f"{suffix} {picture} {entry.picture_bytes} {entry.key}.{suffix} "
        f"cls {label} {len(str(entry.label))} {entry.key}.cls\n"
        for entry, picture, label in zip(entries, *(starts.tolist() for starts in _starts(entries)), strict=True)
    ]
    return "".join([f"v1.2 {len(entries)}\n", *lines])


def read_rows(tar: Path, shard: ShardInfo, suffix: str) -> NDArray[np.void]:
    """The rows of one shard by its `.idx`, with the labels in the tar.

    Raises ShardError if the index is missing or none, has another number of samples than the manifest, or leads
    elsewhere than where `ShardWriter` puts them, or if a label is no number.
    """
    path = tar.with_suffix(".idx")
    words, keys = _index_words(path, suffix), read_keys(path, suffix)
    if len(keys) != shard.samples:
        raise ShardError(f"{path}: {len(keys)} samples, the manifest says {shard.samples}")
    try:
        columns = [np.array(words[column::8]).astype(np.int64) for column in (1, 2, 5, 6)]
    except (ValueError, OverflowError) as error:
        raise ShardError(f"{path}: not an index v1.2: {error}") from None
    picture_start, picture_bytes, label_start, label_bytes = columns
    expected = _layout(picture_bytes, label_bytes)
    misfits = (
        (np.minimum(picture_bytes, label_bytes) < 1)
        | (np.maximum(picture_bytes, label_bytes) > min(shard.bytes, LARGEST))
        | (picture_start != expected[0])
        | (label_start != expected[1])
        | (label_start + member_bytes(label_bytes) - BLOCK > shard.bytes)
    )
    check = f"check the set with: python -m sharding verify {path.parent}"
    if misfits.any():
        what = f"does not lie in {tar.name} where this index says; make the index anew with wds2idx"
        raise ShardError(f"{path}: sample {keys[misfits.argmax()]} {what}, and {check}")
    rows = np.empty(len(keys), ROW)
    rows["picture_start"], rows["picture_bytes"] = picture_start, picture_bytes
    with tar.open("rb") as file:
        for row, (start, size) in enumerate(zip(label_start.tolist(), label_bytes.tolist())):
            try:
                rows["label"][row] = int(os.pread(file.fileno(), size, start))
            except (ValueError, OverflowError) as error:
                raise ShardError(
                    f"{tar}: sample {keys[row]} has a label that is no number ({error}); {check}"
                ) from None
    return rows


def read_keys(path: Path, suffix: str) -> list[str]:
    """The keys that a `.idx` file names, in order. Raises ShardError as `read_rows` does."""
    return [name[: -len(suffix) - 1] for name in _index_words(path, suffix)[3::8]]


def _index_words(path: Path, suffix: str) -> list[str]:
    try:
        words = path.read_text(encoding="ascii").split()
    except FileNotFoundError:
        raise ShardError(f"{path}: no such file; make it with: wds2idx {path.with_suffix('.tar')} {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ShardError(f"{path}: cannot be read as an index ({error})") from None
    body = words[2:]
    counted = len(words) > 1 and words[0] == "v1.2" and len(body) % 8 == 0 and words[1] == str(len(body) // 8)
    if not counted or not set(body[0::8]) <= {suffix} or not set(body[4::8]) <= {"cls"}:
        raise ShardError(f"{path}: not an index v1.2 of {suffix} and cls members; make it anew with wds2idx")
    return body


def npy_header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """What stands before the data in a `.npy` file of such an array, as NumPy writes it."""
    file = io.BytesIO()
    layout = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, layout)
    return file.getvalue()


def write_table(folder: Path, shards: Sequence[ShardInfo], rows: Iterable[NDArray[np.void]]) -> None:
    """Write the table of the split in `folder`, from the rows of its shards in turn."""
    with write_atomically(folder / TABLE) as file:
        file.write(npy_header(ROW, (sum(shard.samples for shard in shards) + 1,)))
        for part in rows:
            file.write(part.tobytes())
        file.write(_seal(shards))


def open_table(folder: Path, manifest: Manifest) -> NDArray[np.void]:
    """The rows [samples] of the split in `folder`: mapped, in the same time for any number, or read from its `.idx`.

    Raises ShardError for a table that is not of the manifest's shards, or an index that does not fit its tar.
    """
    path, count = folder / TABLE, manifest.samples + 1
    if not path.exists():  # packed by version 0.1
        return np.concatenate(
            [read_rows(folder / shard.name, shard, SUFFIX[manifest.encoding]) for shard in manifest.shards]
        )
    header = npy_header(ROW, (count,))
    with path.open("rb") as file:
        sound = file.read(len(header)) == header and file.seek(0, 2) == len(header) + count * ROW.itemsize
    rows = np.asarray(np.memmap(path, ROW, "r", len(header), (count,))) if sound else None
    if rows is None or rows[-1].tobytes() != _seal(manifest.shards):
        advice = "or remove it (the split is then opened by its .idx files, which takes longer)"
        what = "not the table of the shards that manifest.json names"
        raise ShardError(f"{path}: {what}; copy it again with the split, {advice}")
    return rows[:-1]


def _seal(shards: Sequence[ShardInfo]) -> bytes:
    """16 bytes, one row, that stand for these shards."""
    content = json.dumps([[shard.name, shard.samples, shard.bytes, shard.sha256] for shard in shards])
    return hashlib.sha256(content.encode()).digest()[: ROW.itemsize]
