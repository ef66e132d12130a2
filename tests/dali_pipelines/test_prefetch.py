"""The thread that runs ahead: order, depth, errors, and its end."""

import threading
from collections.abc import Generator

import pytest

from dali_pipelines.producer import prefetched


class Source:
    """Counts up to `size`, remembers how far it has got and that it was closed."""

    def __init__(self, size: int, fails_at: int = -1) -> None:
        self.size, self.fails_at = size, fails_at
        self.made, self.closed = 0, False
        self.threads: set[str] = set()

    def items(self) -> Generator[int]:
        try:
            for number in range(self.size):
                if number == self.fails_at:
                    raise OSError(f"item {number}")
                self.made += 1
                self.threads.add(threading.current_thread().name)
                yield number
        finally:
            self.closed = True


def workers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("batches")]


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("size", [0, 1, 3, 20])
def test_items_come_in_order_from_one_other_thread(size: int, depth: int) -> None:
    source = Source(size)
    assert list(prefetched(source.items(), depth)) == list(range(size))
    assert source.closed and workers() == []
    assert all(name.startswith("batches") for name in source.threads)


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_no_more_than_depth_items_are_ahead(depth: int) -> None:
    """So that depth + 1 buffers are enough: those ahead and the one that the consumer holds."""
    source = Source(50)
    taken = 0
    for number in prefetched(source.items(), depth):
        taken += 1
        assert number < source.made <= taken + depth
    assert taken == 50


@pytest.mark.parametrize("depth", [1, 3])
def test_an_error_comes_out_in_its_place(depth: int) -> None:
    source, got = Source(10, fails_at=4), []
    with pytest.raises(OSError, match="item 4"):
        for number in prefetched(source.items(), depth):
            got.append(number)
    assert got == [0, 1, 2, 3] and source.closed and workers() == []


def test_a_consumer_that_stops_closes_the_source_and_ends_the_thread() -> None:
    source = Source(100)
    generator = source.items()  # held here too, so that only closing ends it
    items = prefetched(generator, 2)
    assert [next(items), next(items)] == [0, 1]
    assert len(workers()) == 1
    items.close()
    assert source.closed and source.made <= 4 and workers() == []


def test_nothing_starts_before_the_first_item_is_asked_for() -> None:
    source = Source(3)
    items = prefetched(source.items(), 2)
    assert workers() == [] and source.made == 0
    items.close()
    assert source.made == 0
