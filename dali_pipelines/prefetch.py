"""Items of a generator, made ahead of their consumer in one thread that lives as long as the iteration."""

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
_END = object()


def prefetched(items: Generator[Item], depth: int) -> Generator[Item]:
    """`items`, with up to `depth` of them made or being made while the consumer is busy.

    An error in `items` comes out where its item would have. However the iteration ends (at the end, by an error,
    or because the consumer stopped), the thread has ended and `items` is closed when it is over.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as worker:
        pending: deque[Future[object]] = deque(worker.submit(next, items, _END) for _ in range(depth))
        try:
            while (item := pending.popleft().result()) is not _END:
                pending.append(worker.submit(next, items, _END))
                yield item  # type: ignore[misc]
        finally:
            for future in pending:
                future.cancel()
            worker.submit(items.close).result()
