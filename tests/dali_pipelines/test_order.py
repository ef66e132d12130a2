"""Order: permutations, windows, and who decodes which part; truth tables over data-axis sizes."""

import math
import tracemalloc

import numpy as np
import pytest
from scipy.stats import chisquare

from dali_pipelines.keyed import mixed_key
from dali_pipelines.order import EpochOrder, permute, slice_range

SIZES = np.array([10, 7, 10, 1, 10, 10, 4])
ENDS = np.cumsum(SIZES)


def order_of(sizes: np.ndarray, seed: int, epoch: int, window: int | None = None) -> np.ndarray:
    """All ids of an epoch in their order."""
    return EpochOrder(sizes, seed, epoch, window)[np.arange(int(sizes.sum()))]


def shards_of(ids: np.ndarray) -> list[int]:
    return sorted(set(np.searchsorted(ENDS, ids, side="right").tolist()))


@pytest.mark.parametrize("window", [None, 1, 2, 3, 6, 7, 100])
def test_every_epoch_is_another_permutation_and_the_same_when_asked_again(window: int | None) -> None:
    orders = [order_of(SIZES, seed, epoch, window) for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1))]
    for order in orders:
        assert order.dtype == np.int64
        assert sorted(order.tolist()) == list(range(52))
    assert len({tuple(order.tolist()) for order in orders}) == 4
    np.testing.assert_array_equal(order_of(SIZES, 1, 0, window), orders[2])


@pytest.mark.parametrize(("window", "groups"), [(1, 7), (2, 4), (3, 3), (6, 2)])
def test_a_window_uses_its_own_shards_only_in_shard_order(window: int, groups: int) -> None:
    order, shards = order_of(SIZES, 3, 5, window), np.concatenate(EpochOrder(SIZES, 3, 5, window).shard_groups())
    assert sorted(shards.tolist()) == list(range(7))
    first, seen = 0, 0
    for start in range(0, 7, window):
        chosen = shards[start : start + window]
        size = int(SIZES[chosen].sum())
        assert shards_of(order[first : first + size]) == sorted(chosen.tolist())
        first, seen = first + size, seen + 1
    assert (first, seen) == (52, groups)


def test_a_window_shuffles_across_its_shards_and_not_only_inside_them() -> None:
    sizes = np.full(4, 100)
    order = order_of(sizes, 0, 0, 2)
    runs = int((np.diff(order[:200] // 100) != 0).sum())
    assert 60 < runs < 140  # two shards, well mixed, change about 100 times in 200 samples


def test_a_window_of_all_shards_is_the_global_permutation() -> None:
    np.testing.assert_array_equal(order_of(SIZES, 2, 9, 7), order_of(SIZES, 2, 9))


def test_the_global_permutation_leaves_nothing_near_its_place() -> None:
    ids = order_of(np.full(10, 1000), 0, 0)
    travelled = np.abs(ids - np.arange(10_000)).mean() / 10_000
    assert abs(travelled - 1 / 3) < 0.01  # what two independent uniform places are apart
    assert abs(np.corrcoef(ids, order_of(np.full(10, 1000), 0, 1))[0, 1]) < 0.05


def test_an_empty_split_has_an_empty_order() -> None:
    assert order_of(np.zeros(0, np.int64), 0, 0).tolist() == []


def test_a_window_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="window 0: expected at least one shard"):
        order_of(SIZES, 0, 0, 0)


@pytest.mark.parametrize(
    ("samples", "world", "sizes"),
    [
        (128, 1, [128]),
        (128, 3, [42, 43, 43]),
        (128, 8, [16] * 8),
        (10, 4, [2, 3, 2, 3]),
        (5, 8, [0, 1, 0, 1, 1, 0, 1, 1]),
        (0, 2, [0, 0]),
    ],
)
def test_parts_are_contiguous_and_cover_the_batch(samples: int, world: int, sizes: list[int]) -> None:
    parts = [slice_range(samples, rank, world) for rank in range(world)]
    assert [part.stop - part.start for part in parts] == sizes
    assert parts[0].start == 0 and parts[-1].stop == samples
    assert [part.start for part in parts[1:]] == [part.stop for part in parts[:-1]]


@pytest.mark.parametrize("samples", [1, 5, 127, 128])
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_two_ranks_of_twice_the_world_share_one_part(samples: int, world: int) -> None:
    for rank in range(world):
        whole = slice_range(samples, rank, world)
        halves = [slice_range(samples, 2 * rank + half, 2 * world) for half in (0, 1)]
        assert (halves[0].start, halves[0].stop, halves[1].stop) == (whole.start, halves[1].start, whole.stop)


def test_every_size_has_permutations() -> None:
    for size in range(1, 2001):
        positions = np.arange(size)
        assert (np.sort(permute(positions, size, 7 * size)) == positions).all(), size


@pytest.mark.parametrize("size", [3, 4, 5])
def test_all_orders_of_a_few_samples_come_equally_often(size: int) -> None:
    orders = 200 * math.factorial(size)
    keys = np.repeat([mixed_key(3, epoch) for epoch in range(orders)], size).astype(np.uint64)
    drawn = permute(np.tile(np.arange(size), orders), size, keys).reshape(orders, size)
    _, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(counts) == math.factorial(size) and chisquare(counts).pvalue > 0.01


def test_neighbors_go_apart() -> None:
    ids = order_of(np.full(10, 1000), 0, 0)
    assert abs(np.corrcoef(ids[:-1], ids[1:])[0, 1]) < 0.05


@pytest.mark.parametrize("window", [None, 8])
def test_the_order_of_a_thousand_million_samples_is_not_written_down(window: int | None) -> None:
    sizes = np.full(100_000, 10_000)
    EpochOrder(sizes[:3], 0, 0)[np.arange(3)]  # compiled
    tracemalloc.start()
    try:
        order = EpochOrder(sizes, 0, 0, window)
        ids = order[np.arange(10**9 - 128, 10**9)]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(order) == 10**9 and len(set(ids.tolist())) == 128 and 0 <= ids.min() <= ids.max() < 10**9
    assert peak < 10_000_000


@pytest.mark.parametrize("positions", [[-1], [0, 52]])
def test_positions_outside_the_epoch_are_refused(positions: list[int]) -> None:
    with pytest.raises(IndexError, match="expected 0 to 51"):
        EpochOrder(SIZES, 0, 0)[np.array(positions)]
