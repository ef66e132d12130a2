"""What is checked before a loader delivers anything: the indexes of the shards, the device."""

import numpy as np
import torch
from numpy.typing import NDArray

from dali_pipelines.config import LoaderError
from sharding import ShardError, ShardSet


def check_shards(shards: ShardSet) -> None:
    """Reads every index, and, where it says that they are, the labels of the first and the last sample of each shard.

    Raises LoaderError where an index does not fit its tar, with the shard and the command that checks the set. (Whether
    each tar is there at its full size has been checked by `ShardSet.open`. 128 shards of 10,000 take about 2.5 s.)
    """
    ends = np.cumsum(shards.shard_sizes)
    for shard, (end, size) in enumerate(zip(ends, shards.shard_sizes)):
        if size:
            _check_samples(shards, shard, np.array([end - size, end - 1]))


def _check_samples(shards: ShardSet, shard: int, ids: NDArray[np.int64]) -> None:
    try:
        labels = shards.labels(ids)
    except ShardError:
        raise
    except (ValueError, IndexError) as error:  # what lies there is no number, or lies outside the tar
        raise _misfit(shards, shard) from error
    if ((labels < 0) | (labels >= len(shards.classes))).any():
        raise _misfit(shards, shard)


def _misfit(shards: ShardSet, shard: int) -> LoaderError:
    name = shards.shard_names[shard]
    return LoaderError(
        f"{shards.path}/{name}: its index does not fit it; check the set with: python -m sharding verify {shards.path}"
    )


def present_device(device: str) -> str:
    """`device` with its number; raises LoaderError for a GPU that is not there."""
    if device == "cpu":
        return device
    count = torch.cuda.device_count()
    number = device.partition(":")[2]
    if not count or int(number or 0) >= count:
        raise LoaderError(f"device {device}: this machine has {count} CUDA devices; ask for --device cpu")
    return f"cuda:{number or torch.cuda.current_device()}"
