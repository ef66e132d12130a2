"""What is checked before a loader delivers anything: the indexes of the shards, the device."""

import numpy as np
import torch

from dali_pipelines.config import LoaderError
from sharding import ShardSet


def check_shards(shards: ShardSet) -> None:
    """Reads every index, and, where it says that they are, the labels of the first and the last sample of each shard.

    Raises ShardError where an index does not fit its tar, or such a label is not in the class table, with the key and
    the command that checks the set. (Whether each tar is there at its full size has been checked by `ShardSet.open`.
    128 shards of 10,000 take about 2.5 s.)
    """
    ends = np.cumsum(shards.shard_sizes)
    for end, size in zip(ends, shards.shard_sizes):
        if size:
            shards.labels(np.array([end - size, end - 1]))


def present_device(device: str) -> str:
    """`device` with its number; raises LoaderError for a GPU that is not there."""
    if device == "cpu":
        return device
    count = torch.cuda.device_count()
    number = device.partition(":")[2]
    if not count or int(number or 0) >= count:
        raise LoaderError(f"device {device}: this machine has {count} CUDA devices; ask for --device cpu")
    return f"cuda:{number or torch.cuda.current_device()}"
