"""Which shards are in use as an epoch goes on: the next ones are asked for early, the last ones let go.

Enters: groups of shards in the order in which an epoch goes through them. Leaves: hints to the system. They change
when bytes arrive, never which. Through one group of all shards samples come in any order: then the samples of the
next step are asked for, and only they (a fault in a mapped tar would read 128 KB around each).
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from dali_pipelines.keyed import Integers
from sharding import ShardSet

RELEASE_SAMPLES = 1 << 16  # a global permutation unmaps what it has read after so many samples: about 2 GB of JPEG


class ReadAhead:
    """Follows an epoch through its groups of shards, with a thread that waits for the system."""

    def __init__(self, shards: ShardSet, groups: Sequence[Sequence[int]]) -> None:
        self._shards, self._groups = shards, groups
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._scattered = len(groups) == 1 and len(groups[0]) > 1
        if self._scattered:
            shards.read_scattered()
        sizes: Integers = shards.shard_sizes
        self._ends = np.cumsum([int(sizes[list(group)].sum()) for group in groups])
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
