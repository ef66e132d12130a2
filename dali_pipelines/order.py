"""The order of samples: (shard sizes, seed, epoch, window) → permutation; a rank's part of a global batch.

    global order of the epoch   [ batch 0 | batch 1 | batch 2 | … ]          the same for every number of ranks
    batch 1, n samples, 3 ranks [ rank 0 | rank 1 | rank 2 ]                 rank r: [r·n//3, (r+1)·n//3)

So part d of D parts is exactly parts 2d and 2d+1 of 2·D parts, and n may differ between ranks, down to 0.
"""

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.keyed import keyed_bits, mixed_key

_SAMPLES, _SHARDS = 1, 2  # what a key is for


def shard_order(shards: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order in which `window=k` goes through the shards in `epoch`, k at a time: int64 [shards]."""
    return np.argsort(keyed_bits(mixed_key(seed, epoch, _SHARDS), np.arange(shards)), kind="stable")


def epoch_order(shard_sizes: NDArray[np.int64], seed: int, epoch: int, window: int | None = None) -> NDArray[np.int64]:
    """The ids of a split in the order of `epoch`: int64 [samples], a permutation of 0..samples−1.

    `window=None` permutes all samples. `window=k` permutes the shards and shuffles within k of them at a time,
    so that only k shards (and the next k, read ahead) are in use; k at or above their number equals None.
    A pure function of its arguments: 1.28 million samples take about 0.2 s.
    """
    if window is not None and window < 1:
        raise ValueError(f"window {window}: expected at least one shard, or None for a global permutation")
    sizes = np.asarray(shard_sizes, dtype=np.int64)
    ids = np.arange(int(sizes.sum()))
    words = keyed_bits(mixed_key(seed, epoch, _SAMPLES), ids)
    if window is None or window >= len(sizes):
        return np.argsort(words, kind="stable")
    ends = np.cumsum(sizes)
    order = shard_order(len(sizes), seed, epoch)
    parts = []
    for first in range(0, len(sizes), window):
        chosen = order[first : first + window]
        members = np.concatenate([ids[ends[shard] - sizes[shard] : ends[shard]] for shard in chosen])
        parts.append(members[np.argsort(words[members], kind="stable")])
    return np.concatenate(parts)


def slice_range(samples: int, rank: int, world: int) -> slice:
    """The places of a global batch of `samples` that rank `rank` of `world` decodes (contiguous)."""
    return slice(rank * samples // world, (rank + 1) * samples // world)
