"""One shard: a tar of `<key>.jpg|.npy` and `<key>.cls` members, and DALI's index beside it.

Plain ustar with fixed times, owner and mode. `webdataset`, `tar` and `fn.readers.webdataset` read it unchanged.
"""

import hashlib
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from sharding.errors import ShardError

KEY_BYTES = 90
"""Longer keys end in a hash: ustar holds names of 100 bytes."""

SUFFIX = {"jpeg": "jpg", "raw": "npy"}
_BLOCK = 512
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
    """Writes one tar to `file` and counts what the manifest and the index need. The same samples give the same bytes."""

    def __init__(self, file: IO[bytes], encoding: str) -> None:
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
        self._write(b"\0" * (-(self.bytes + 2 * _BLOCK) % tarfile.RECORDSIZE + 2 * _BLOCK))

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
        header = tarfile.TarInfo(f"{key}.{suffix}")
        header.size = len(content)
        self._write(header.tobuf(tarfile.USTAR_FORMAT))
        start = self.bytes
        self._write(content)
        self._write(b"\0" * (-len(content) % _BLOCK))
        return f"{suffix} {start} {len(content)} {header.name}"

    def _write(self, content: bytes) -> None:
        self._file.write(content)
        self._digest.update(content)
        self.bytes += len(content)


@dataclass(frozen=True)
class ShardIndex:
    """Where the samples of one shard lie: int64 arrays [samples], bytes from the tar's start; `keys` likewise."""

    picture_start: np.ndarray
    picture_bytes: np.ndarray
    label_start: np.ndarray
    label_bytes: np.ndarray
    keys: list[str]


def read_index(path: Path, suffix: str) -> ShardIndex:
    """Parse a `.idx` file. Raises ShardError if it is missing, or is not one of this format."""
    try:
        words = path.read_text(encoding="ascii").split()
    except FileNotFoundError:
        raise ShardError(f"{path}: no such file; make it with `wds2idx {path.with_suffix('.tar').name}`") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ShardError(f"{path}: cannot be read as an index ({error})") from None
    body = words[2:]
    wellformed = words[:1] == ["v1.2"] and len(words) > 1 and len(body) % 8 == 0 and words[1] == str(len(body) // 8)
    if not wellformed or not set(body[0::8]) <= {suffix} or not set(body[4::8]) <= {"cls"}:
        raise ShardError(f"{path}: not an index v1.2 of {suffix} and cls members; make it anew with wds2idx")
    try:
        columns = [np.array(body[place::8], dtype=np.int64) for place in (1, 2, 5, 6)]
    except ValueError as error:
        raise ShardError(f"{path}: not an index v1.2: {error}") from None
    return ShardIndex(*columns, keys=[name[: -len(suffix) - 1] for name in body[3::8]])
