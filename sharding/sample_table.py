"""Where each sample of a split lies and its label, in one table of 16 bytes a sample."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sharding.errors import ShardError
from sharding.shard import ShardIndex, read_index, read_keys

ROW = np.dtype([("picture_start", "<i8"), ("picture_bytes", "<i4"), ("label", "<i4")])
"""One sample: the picture's first byte in its tar, the picture's size, and the label (UNREAD: still in the tar)."""

UNREAD = -1


def rows_of_index(path: Path, suffix: str, samples: int, tar_bytes: int) -> NDArray[np.void]:
    """The rows of one shard by its `.idx`, labels UNREAD. Raises ShardError where the index does not fit the tar."""
    index: ShardIndex = read_index(path, suffix)
    if len(index) != samples:
        raise ShardError(f"{path}: {len(index)} samples, the manifest says {samples}")
    misfit = index.first_misfit(tar_bytes)
    if misfit is not None:
        raise ShardError(
            f"{path}: sample {read_keys(path, suffix)[misfit]} does not lie in {path.with_suffix('.tar').name} where "
            "this index says; make the index anew with wds2idx, and check the set with: "
            f"python -m sharding verify {path.parent}"
        )
    rows = np.empty(samples, ROW)
    rows["picture_start"], rows["picture_bytes"], rows["label"] = index.picture_start, index.picture_bytes, UNREAD
    return rows
