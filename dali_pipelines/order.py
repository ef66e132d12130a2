"""The order of samples, a pure function that is never written down; and a rank's slice of a global batch.

    global order of the epoch   [ batch 0 | batch 1 | batch 2 | … ]          the same for every number of ranks
    batch 1, n samples, 3 ranks [ rank 0 | rank 1 | rank 2 ]                 rank r: [r·n//3, (r+1)·n//3)

So part d of D parts is exactly parts 2d and 2d+1 of 2·D parts, and n may differ between ranks, down to 0.
"""

from typing import Any

import numba
import numpy as np

from dali_pipelines.keyed import Integers, keyed_bits, mix, mixed_key

_SAMPLES, _SHARDS = 1, 2  # what a key is for
_ROUNDS = 16


@numba.vectorize(cache=True)
def _permuted(position: Any, size: Any, key: Any) -> Any:
    """Where a permutation of 0..size−1, chosen by `key`, sends `position`: uint64 all.

    A Feistel network on the bits of the size, in two unequal halves: each of its rounds can be undone, whatever its
    round function, so no two positions meet. A result outside the size (at most every second, from 33 samples on) goes
    through again: cycle walking (Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002).
    """
    one = np.uint64(1)
    bits = np.uint64(6)  # fewer have too few functions of a half: orders of five samples would not be uniform
    while size > one << bits:
        bits += one
    low_bits = bits >> one
    low_mask, high_mask = (one << low_bits) - one, (one << (bits - low_bits)) - one
    word = position
    while True:
        low, high = word & low_mask, word >> low_bits
        for number in range(_ROUNDS):
            mixed = mix(key + (low if number % 2 else high) * np.uint64(_ROUNDS) + np.uint64(number)) >> np.uint64(32)
            if number % 2:
                high ^= mixed & high_mask
            else:
                low ^= mixed & low_mask
        word = high << low_bits | low
        if word < size:
            return word


def permute(positions: Integers, sizes: Any, keys: Any) -> Integers:
    """Each position's place in the permutation of 0..size−1 that its key chooses: int64 [n]."""
    places: Integers = _permuted(*(np.uint64(words) for words in (positions, sizes, keys))).astype(np.int64)
    return places


class EpochOrder:
    """The ids of a split in the order of `epoch`: `order[positions]`, a permutation of 0..samples−1.

    `window=None` permutes all samples. `window=k` permutes the shards and shuffles within k of them at a time, so that
    only k shards (and the next k, read ahead) are in use; k at or above their number equals None. A pure function of
    its arguments; nothing is kept of the size of the split.
    """

    def __init__(self, shard_sizes: Integers, seed: int, epoch: int, window: int | None = None) -> None:
        if window is not None and window < 1:
            raise ValueError(f"window {window}: expected at least one shard, or None for a global permutation")
        sizes = np.asarray(shard_sizes, np.int64)
        shards = np.arange(len(sizes))
        if window is None or window >= len(sizes):
            window = max(1, len(sizes))
        else:
            shards = permute(shards, len(sizes), mixed_key(seed, epoch, _SHARDS))
        self._shards, self._window = shards, window
        self._key = mixed_key(seed, epoch, _SAMPLES)
        self._ends = np.cumsum(sizes[shards])
        self._starts = (np.cumsum(sizes) - sizes)[shards] - (self._ends - sizes[shards])  # in the split, from there
        self._group_ends = self._ends[np.minimum(np.arange(0, len(shards), window) + window, len(shards)) - 1]

    def shard_groups(self) -> list[list[int]]:
        """The shards of each window, in the order in which the epoch goes through them."""
        shards, window = self._shards.tolist(), self._window
        return [shards[first : first + window] for first in range(0, len(shards), window)]

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, positions: Integers) -> Integers:
        """The ids at `positions` [n] of the epoch: int64 [n]. Raises IndexError outside 0..samples−1."""
        positions = np.asarray(positions, np.int64)
        if positions.size and not 0 <= positions.min() <= positions.max() < len(self):
            raise IndexError(f"positions {positions.min()} to {positions.max()}: expected 0 to {len(self) - 1}")
        groups = np.searchsorted(self._group_ends, positions, side="right")
        firsts = np.concatenate([[0], self._group_ends])[groups]
        keys = keyed_bits(self._key, groups)
        within = permute(positions - firsts, self._group_ends[groups] - firsts, keys) + firsts
        return within + self._starts[np.searchsorted(self._ends, within, side="right")]


def slice_range(samples: int, rank: int, world: int) -> slice:
    """The places of a global batch of `samples` that rank `rank` of `world` decodes (contiguous)."""
    return slice(rank * samples // world, (rank + 1) * samples // world)
