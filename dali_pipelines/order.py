"""The order of samples, a pure function that is never written down; a rank's slice of a global batch; read-ahead.

    global order of the epoch   [ batch 0 | batch 1 | batch 2 | … ]          the same for every number of ranks
    batch 1, n samples, 3 ranks [ rank 0 | rank 1 | rank 2 ]                 rank r: [r·n//3, (r+1)·n//3)

So part d of D parts is exactly parts 2d and 2d+1 of 2·D parts, and n may differ between ranks, down to 0.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np

from dali_pipelines.keyed import Integers, keyed_bits, mix, mixed_key
from sharding import ShardSet

_SAMPLES, _SHARDS = 1, 2  # what a key is for
_ROUNDS = 16
RELEASE_SAMPLES = 1 << 16  # a global permutation unmaps what it has read after so many samples: about 2 GB of JPEG


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
    return _permuted(np.uint64(positions), np.uint64(sizes), np.uint64(keys)).astype(np.int64)


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
        taken = sizes[shards]
        self._ends = np.cumsum(taken)
        self._starts = (np.cumsum(sizes) - sizes)[shards] - (self._ends - taken)  # in the split, from there
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


class ReadAhead:
    """Follows an epoch through its groups of shards: the next ones are asked for early, the last ones let go.

    These are hints to the system: they change when bytes arrive, never which. Through one group of all shards samples
    come in any order: then those of the next step are asked for, and only they (a fault in a mapped tar would read
    128 KB around each). A thread of its own waits for the system.
    """

    def __init__(self, shards: ShardSet, groups: Sequence[Sequence[int]]) -> None:
        self._shards, self._groups = shards, groups
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._scattered = len(groups) == 1 and len(groups[0]) > 1
        if self._scattered:
            shards.read_scattered()
        self._ends = np.cumsum([int(shards.shard_sizes[list(group)].sum()) for group in groups])
        self._current: int | None = None  # the group that is read, None at first
        self._asked = self._read = 0  # groups asked for, or gone by; samples read since the last release

    def reach(self, position: int, ids: Integers, upcoming: Integers) -> None:
        """Samples `ids`, from `position` of the global order on, are about to be read, and `upcoming` after them."""
        group = min(int(np.searchsorted(self._ends, position, side="right")), len(self._groups) - 1)
        if self._current is None:
            self._current = self._asked = group
            if self._scattered:
                self._shards.ask_for(ids)
        if self._scattered:
            self._shards.ask_for(upcoming)
        if len(self._groups) > 1:
            for ahead in self._groups[self._asked : group + 2]:
                for shard in ahead:
                    self._worker.submit(self._shards.prefetch, shard)
            self._asked = group + 2
        for passed in self._groups[self._current : group]:  # a batch may reach over a whole group
            self._release(passed)
        self._current = group
        self._read += len(ids)
        if self._read >= RELEASE_SAMPLES:
            self._read = 0
            self._release(self._groups[group])

    def close(self) -> None:
        """End the thread."""
        self._worker.shutdown(cancel_futures=True)

    def _release(self, group: Sequence[int]) -> None:
        """Unmap the pages, so that resident memory does not grow with the split; they stay in the page cache."""
        for shard in group:
            self._shards.release(shard)
