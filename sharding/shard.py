"""One shard: a tar of `<key>.jpg|.npy` and `<key>.cls` members, and DALI's index beside it; a split's `samples.npy`.

Shards are plain ustar with fixed times, owner and mode. `webdataset`, `tar` and `fn.readers.webdataset` read them
unchanged. `samples.npy` tells where each sample lies and its label, so that a split of any size opens at once: one row
a sample, in the order of ids, and a last row that binds it to the shards of the manifest. It is mapped, not read: the
processes of a node share its pages.
"""

import hashlib
import io
import json
import mmap
import re
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.files import write_atomically
from sharding.manifest import SUFFIX, Manifest, ShardInfo
from sharding.record import Encoding, ShardError

TABLE = "samples.npy"

KEY_BYTES = 90
"""Longer keys end in a hash: ustar holds names of 100 bytes."""

BLOCK = 512
"""Tar counts in blocks of so many bytes: a header is one, contents are filled up to blocks."""

ROW = np.dtype([("picture_start", "<i8"), ("picture_bytes", "<i4"), ("label", "<i4")])
"""One sample: the picture's first byte in its tar, the picture's size, and the label."""

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


def sample_members(key: str, picture: bytes, label: int, encoding: Encoding) -> bytes:
    """One sample as members of a tar: its picture, then its label in ASCII. The same sample gives the same bytes."""
    parts = []
    for suffix, content in ((SUFFIX[encoding], picture), ("cls", str(label).encode())):
        header = tarfile.TarInfo(f"{key}.{suffix}")  # mode 644, owner 0, time 0
        header.size = len(content)
        parts += [header.tobuf(tarfile.USTAR_FORMAT), content, bytes(-len(content) % BLOCK)]
    return b"".join(parts)


def tar_end(size: int) -> bytes:
    """What ends a tar with `size` bytes of members: two empty blocks, filled up to tar's record of 10,240 bytes."""
    return bytes(-(size + 2 * BLOCK) % tarfile.RECORDSIZE + 2 * BLOCK)


def member_bytes(size: int) -> int:
    """What a member of `size` bytes takes in a tar: its header, and its content filled up to blocks."""
    return BLOCK + size + -size % BLOCK


def rows_of(entries: list[Entry]) -> NDArray[np.void]:
    """The rows of one shard's samples: members without a gap, each after its header."""
    rows, start = [], BLOCK
    for entry in entries:
        rows.append((start, entry.picture_bytes, entry.label))
        start += member_bytes(entry.picture_bytes) + member_bytes(len(str(entry.label)))
    return np.array(rows, ROW)


def index_text(entries: list[Entry], suffix: str) -> str:
    """The text of the `.idx` file of a shard, as DALI's wds2idx prints it (v1.2)."""
    lines = [f"v1.2 {len(entries)}\n"]
    for (key, size, label), start in zip(entries, rows_of(entries)["picture_start"].tolist()):
        label_start = start + member_bytes(size)
        lines.append(f"{suffix} {start} {size} {key}.{suffix} cls {label_start} {len(str(label))} {key}.cls\n")
    return "".join(lines)


def header_at(tar: mmap.mmap, start: int) -> tarfile.TarInfo:
    """The header of the member whose content begins at `start`. Raises tarfile.HeaderError where there is none."""
    return tarfile.TarInfo.frombuf(tar[start - BLOCK : start], "ascii", "surrogateescape")


def read_rows(path: Path, shard: ShardInfo, suffix: str) -> NDArray[np.void]:
    """The rows of one shard by the headers in its tar. Raises ShardError where it is not what packing writes."""
    rows: list[tuple[int, int, int]] = []
    start, key = BLOCK, "0"
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as tar:
            for _ in range(shard.samples):
                picture = header_at(tar, start)
                key, label_start = picture.name.removesuffix(f".{suffix}"), start + member_bytes(picture.size)
                label = header_at(tar, label_start)
                if (picture.name, label.name) != (f"{key}.{suffix}", f"{key}.cls"):
                    raise ValueError(f"members {picture.name} and {label.name}, expected .{suffix} and .cls of one key")
                rows.append((start, picture.size, int(tar[label_start : label_start + label.size])))
                start = label_start + member_bytes(label.size)
            if tar[start - BLOCK : start].strip(b"\0"):
                raise ValueError(f"more samples follow, the manifest says {shard.samples}")
        return np.array(rows, ROW)
    except (tarfile.HeaderError, ValueError, OverflowError) as error:
        check = f"check the set with: python -m sharding verify {path.parent}"
        raise ShardError(f"{path}: sample {key} or the next is not as packing writes it ({error}); {check}") from None


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
    """The rows [samples] of the split in `folder`: mapped, in the same time for any number, or read from its tars.

    Raises ShardError for a table that is not of the manifest's shards, or a tar that is not what packing writes.
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
        advice = "or remove it (the split is then opened by the headers in its tars, which takes longer)"
        what = "not the table of the shards that manifest.json names"
        raise ShardError(f"{path}: {what}; copy it again with the split, {advice}")
    return rows[:-1]


def _seal(shards: Sequence[ShardInfo]) -> bytes:
    """16 bytes, one row, that stand for these shards."""
    content = json.dumps([[shard.name, shard.samples, shard.bytes, shard.sha256] for shard in shards])
    return hashlib.sha256(content.encode()).digest()[: ROW.itemsize]
