"""One shard: a tar of `<key>.jpg|.npy` and `<key>.cls` members, and DALI's index beside it.

Plain ustar with fixed times, owner and mode. `webdataset`, `tar` and `fn.readers.webdataset` read it unchanged.
"""

import hashlib
import re
import tarfile
from pathlib import Path
from typing import IO, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from sharding.record import Encoding, ShardError

LARGEST = 2**31 - 1
"""A picture's size is kept as int32."""

KEY_BYTES = 90
"""Longer keys end in a hash: ustar holds names of 100 bytes."""

BLOCK = 512
"""Tar counts in blocks of so many bytes: a header is one, contents are filled up to blocks."""

ROW = np.dtype([("picture_start", "<i8"), ("picture_bytes", "<i4"), ("label", "<i4")])
"""One sample: the picture's first byte in its tar, the picture's size, and the label (UNREAD: look into the tar)."""

UNREAD = -1

Size = TypeVar("Size", int, NDArray[np.int64])
SUFFIX: dict[Encoding, str] = {"jpeg": "jpg", "raw": "npy"}
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


def layout(
    picture_bytes: NDArray[np.int64], label_bytes: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where pictures and labels of such sizes lie in a tar: members without a gap, each after its header."""
    pictures, labels = member_bytes(picture_bytes), member_bytes(label_bytes)
    picture_start = BLOCK + np.cumsum(pictures + labels) - pictures - labels
    return picture_start, picture_start + pictures


def _entry_layout(entries: list[Entry]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    pictures, labels = [entry.picture_bytes for entry in entries], [len(str(entry.label)) for entry in entries]
    return layout(np.array(pictures, np.int64), np.array(labels, np.int64))


def rows_of(entries: list[Entry]) -> NDArray[np.void]:
    """The rows of one shard's samples."""
    rows = np.empty(len(entries), ROW)
    rows["picture_start"] = _entry_layout(entries)[0]
    rows["picture_bytes"] = [entry.picture_bytes for entry in entries]
    rows["label"] = [entry.label for entry in entries]
    return rows


def index_text(entries: list[Entry], suffix: str) -> str:
    """The text of the `.idx` file of a shard, as DALI's wds2idx prints it (v1.2)."""
    lines = [
        f"{suffix} {picture} {entry.picture_bytes} {entry.key}.{suffix} "
        f"cls {label} {len(str(entry.label))} {entry.key}.cls\n"
        for entry, picture, label in zip(entries, *(starts.tolist() for starts in _entry_layout(entries)), strict=True)
    ]
    return "".join([f"v1.2 {len(entries)}\n", *lines])


def read_rows(path: Path, suffix: str, tar_bytes: int) -> NDArray[np.void]:
    """The rows of one shard by its `.idx`, labels UNREAD.

    Raises ShardError if it is missing, no index, or leads elsewhere than where `ShardWriter` puts samples in a tar of
    `tar_bytes`.
    """
    words = _index_words(path, suffix)
    try:
        columns = [np.array(words[column::8]).astype(np.int64) for column in (1, 2, 5, 6)]
    except (ValueError, OverflowError) as error:
        raise ShardError(f"{path}: not an index v1.2: {error}") from None
    picture_start, picture_bytes, label_start, label_bytes = columns
    expected = layout(picture_bytes, label_bytes)
    misfits = (
        (np.minimum(picture_bytes, label_bytes) < 1)
        | (np.maximum(picture_bytes, label_bytes) > min(tar_bytes, LARGEST))
        | (picture_start != expected[0])
        | (label_start != expected[1])
        | (label_start + member_bytes(label_bytes) - BLOCK > tar_bytes)
    )
    if misfits.any():
        raise ShardError(
            f"{path}: sample {read_keys(path, suffix)[misfits.argmax()]} does not lie in "
            f"{path.with_suffix('.tar').name} where this index says; make the index anew with wds2idx, and check the "
            f"set with: python -m sharding verify {path.parent}"
        )
    rows = np.empty(len(picture_start), ROW)
    rows["picture_start"], rows["picture_bytes"], rows["label"] = picture_start, picture_bytes, UNREAD
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
