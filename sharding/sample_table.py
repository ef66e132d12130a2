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
from sharding.errors import ShardError
from sharding.manifest import ShardInfo
from sharding.shard import Entry, ShardIndex, read_index, read_keys

TABLE = "samples.npy"

ROW = np.dtype([("picture_start", "<i8"), ("picture_bytes", "<i4"), ("label", "<i4")])
"""One sample: the picture's first byte in its tar, the picture's size, and the label (UNREAD: look into the tar)."""

UNREAD = -1


def npy_header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """What stands before the data in a `.npy` file of such an array, as NumPy writes it."""
    file = io.BytesIO()
    layout = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, layout)
    return file.getvalue()


def rows_of(index: ShardIndex, labels: NDArray[np.int64] | Sequence[int] | int) -> NDArray[np.void]:
    """The rows of one shard."""
    rows = np.empty(len(index), ROW)
    rows["picture_start"], rows["picture_bytes"], rows["label"] = index.picture_start, index.picture_bytes, labels
    return rows


def rows_of_entries(entries: list[Entry]) -> NDArray[np.void]:
    """The rows of one shard that was just written."""
    return rows_of(ShardIndex.of_entries(entries), [entry.label for entry in entries])


def rows_of_file(path: Path, suffix: str, samples: int, tar_bytes: int) -> NDArray[np.void]:
    """The rows of one shard by its `.idx`, labels UNREAD. Raises ShardError where the index does not fit the tar."""
    index = read_index(path, suffix)
    if len(index) != samples:
        raise ShardError(f"{path}: {len(index)} samples, the manifest says {samples}")
    misfit = index.first_misfit(tar_bytes)
    if misfit is not None:
        raise ShardError(
            f"{path}: sample {read_keys(path, suffix)[misfit]} does not lie in {path.with_suffix('.tar').name} where "
            "this index says; make the index anew with wds2idx, and check the set with: "
            f"python -m sharding verify {path.parent}"
        )
    return rows_of(index, UNREAD)


def write_table(folder: Path, shards: Sequence[ShardInfo], rows: Iterable[NDArray[np.void]]) -> None:
    """Write the table of the split in `folder`, from the rows of its shards in turn."""
    with write_atomically(folder / TABLE) as file:
        file.write(npy_header(ROW, (sum(shard.samples for shard in shards) + 1,)))
        for part in rows:
            file.write(part.tobytes())
        file.write(_seal(shards))


def map_table(folder: Path, shards: Sequence[ShardInfo]) -> NDArray[np.void] | None:
    """The read-only rows [samples] of the split in `folder`; None if it has no table, as splits of version 0.1.

    Takes the same time for any number of samples. Raises ShardError for a table that is not of these shards.
    """
    path, count = folder / TABLE, sum(shard.samples for shard in shards) + 1
    header = npy_header(ROW, (count,))
    try:
        with path.open("rb") as file:
            sound = file.read(len(header)) == header and file.seek(0, 2) == len(header) + count * ROW.itemsize
        rows = np.asarray(np.memmap(path, ROW, "r", len(header), (count,))) if sound else None
    except FileNotFoundError:
        return None
    if rows is None or rows[-1].tobytes() != _seal(shards):
        raise ShardError(
            f"{path}: not the table of the shards that manifest.json names; copy it again with the split, or remove it "
            "(the split is then opened by its .idx files, which takes longer)"
        )
    return rows[:-1]


def _seal(shards: Sequence[ShardInfo]) -> bytes:
    """16 bytes, one row, that stand for these shards."""
    content = json.dumps([[shard.name, shard.samples, shard.bytes, shard.sha256] for shard in shards])
    return hashlib.sha256(content.encode()).digest()[: ROW.itemsize]
