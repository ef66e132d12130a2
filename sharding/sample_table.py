"""samples.npy: where each sample of a split lies and its label, so that a split of any size opens at once.

A `.npy` file of one row a sample, in the order of ids, and a last row that binds it to the shards of the manifest. It
is mapped, not read: the processes of a node share its pages.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.files import write_atomically
from sharding.manifest import Manifest, ShardInfo
from sharding.record import ShardError
from sharding.shard import ROW, SUFFIX, read_rows

TABLE = "samples.npy"


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
        return np.concatenate([_index_rows(folder, shard, SUFFIX[manifest.encoding]) for shard in manifest.shards])
    header = npy_header(ROW, (count,))
    with path.open("rb") as file:
        sound = file.read(len(header)) == header and file.seek(0, 2) == len(header) + count * ROW.itemsize
    rows = np.asarray(np.memmap(path, ROW, "r", len(header), (count,))) if sound else None
    if rows is None or rows[-1].tobytes() != _seal(manifest.shards):
        raise ShardError(
            f"{path}: not the table of the shards that manifest.json names; copy it again with the split, or remove it "
            "(the split is then opened by its .idx files, which takes longer)"
        )
    return rows[:-1]


def _index_rows(folder: Path, shard: ShardInfo, suffix: str) -> NDArray[np.void]:
    path = (folder / shard.name).with_suffix(".idx")
    rows = read_rows(path, suffix, shard.bytes)
    if len(rows) != shard.samples:
        raise ShardError(f"{path}: {len(rows)} samples, the manifest says {shard.samples}")
    return rows


def _seal(shards: Sequence[ShardInfo]) -> bytes:
    """16 bytes, one row, that stand for these shards."""
    content = json.dumps([[shard.name, shard.samples, shard.bytes, shard.sha256] for shard in shards])
    return hashlib.sha256(content.encode()).digest()[: ROW.itemsize]
