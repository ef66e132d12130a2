"""One shard: a tar of `<key>.jpg|.npy` and `<key>.cls` members, and DALI's index beside it.

Plain ustar with fixed times, owner and mode. `webdataset`, `tar` and `fn.readers.webdataset` read it unchanged.
"""

import hashlib
import re
import struct
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

import numpy as np

from sharding.errors import ShardError
from sharding.record import Encoding

LARGEST = 2**31 - 1
"""A picture's size is kept as int32."""

KEY_BYTES = 90
"""Longer keys end in a hash: ustar holds names of 100 bytes."""

Size = TypeVar("Size", int, np.ndarray)
SUFFIX: dict[Encoding, str] = {"jpeg": "jpg", "raw": "npy"}
BLOCK = 512
_HEADER = "<100s8s8s8s12s12s8s1s100s8s247x"
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


class ShardWriter:
    """Writes one tar to `file`, and counts for the manifest and the index. The same samples give the same bytes."""

    def __init__(self, file: IO[bytes], encoding: Encoding) -> None:
        self._file = file
        self._suffix = SUFFIX[encoding]
        self._digest = hashlib.sha256()
        self._lines: list[str] = []
        self.bytes = 0

    def add(self, key: str, picture: bytes, label: int) -> None:
        """Append one sample: its picture, then its label in ASCII."""
        parts = [self._member(self._suffix, key, picture), self._member("cls", key, str(label).encode())]
        self._lines.append(" ".join(parts) + "\n")

    def finish(self) -> None:
        """Append the end of the archive (filled up to tar's record of 10,240 bytes)."""
        self._write(b"\0" * (-(self.bytes + 2 * BLOCK) % tarfile.RECORDSIZE + 2 * BLOCK))

    @property
    def samples(self) -> int:
        """How many samples were added."""
        return len(self._lines)

    @property
    def sha256(self) -> str:
        """The checksum of what was written, in hex."""
        return self._digest.hexdigest()

    def index(self) -> str:
        """The text of the `.idx` file, as DALI's wds2idx prints it (v1.2)."""
        return f"v1.2 {self.samples}\n" + "".join(self._lines)

    def _member(self, suffix: str, key: str, content: bytes) -> str:
        name = f"{key}.{suffix}"
        start = self.bytes + BLOCK
        self._write(tar_header(name, len(content)) + content + b"\0" * (-len(content) % BLOCK))
        return f"{suffix} {start} {len(content)} {name}"

    def _write(self, content: bytes) -> None:
        self._file.write(content)
        self._digest.update(content)
        self.bytes += len(content)


def tar_header(name: str, size: int) -> bytes:
    """The ustar block of a plain file: mode 644, owner 0, time 0. As Python's tarfile makes it, ten times as fast."""
    fields = (name.encode("ascii"), size, b"ustar\x0000")
    block = bytearray(
        struct.pack(
            _HEADER,
            fields[0],
            b"0000644",
            b"0" * 7,
            b"0" * 7,
            b"%011o" % size,
            b"0" * 11,
            b" " * 8,
            b"0",
            b"",
            fields[2],
        )
    )
    block[148:155] = b"%06o\0" % sum(block)
    return bytes(block)


def ceil_div(count: int, size: int) -> int:
    """How many parts of `size` hold `count` things."""
    return -(-count // size)


def member_bytes(size: Size) -> Size:
    """What a member of `size` bytes takes in a tar: its header, and its content filled up to blocks."""
    return BLOCK + size + -size % BLOCK


@dataclass(frozen=True, kw_only=True)
class ShardIndex:
    """Where the samples of one shard lie, in bytes from the tar's start: int64 arrays [samples]."""

    picture_start: np.ndarray
    picture_bytes: np.ndarray
    label_start: np.ndarray
    label_bytes: np.ndarray

    def __len__(self) -> int:
        return len(self.picture_start)

    def first_misfit(self, tar_bytes: int) -> int | None:
        """The first sample that lies elsewhere than `ShardWriter` puts it in a tar of `tar_bytes`; None if none does.

        Members follow each other without a gap: picture, label, next picture, each after one block of header.
        """
        following = self.label_start + member_bytes(self.label_bytes)
        misfits = (
            (np.minimum(self.picture_bytes, self.label_bytes) < 1)
            | (np.maximum(self.picture_bytes, self.label_bytes) > min(tar_bytes, LARGEST))
            | (self.picture_start != np.concatenate([[BLOCK], following])[:-1])
            | (self.label_start != self.picture_start + member_bytes(self.picture_bytes))
            | (following - BLOCK > tar_bytes)
        )
        return int(misfits.argmax()) if misfits.any() else None


def read_index(path: Path, suffix: str) -> ShardIndex:
    """Parse a `.idx` file. Raises ShardError if it is missing, or is not one of this format."""
    words = _index_words(path, suffix)
    try:
        columns = [np.array(words[place::8]).astype(np.int64) for place in (1, 2, 5, 6)]
    except (ValueError, OverflowError) as error:
        raise ShardError(f"{path}: not an index v1.2: {error}") from None
    names = ("picture_start", "picture_bytes", "label_start", "label_bytes")
    return ShardIndex(**dict(zip(names, columns)))


def read_keys(path: Path, suffix: str) -> list[str]:
    """The keys that a `.idx` file names, in order. Raises ShardError as `read_index` does."""
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
