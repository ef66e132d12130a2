"""A cluster's workers as an executor, through dask.distributed (extra "cluster")."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import Executor

from sharding.errors import ShardError

_WAIT_SECONDS = 30


@contextlib.contextmanager
def cluster_executor(address: str) -> Iterator[tuple[Executor, int]]:
    """Connect to the dask scheduler at `address`; yields an executor and the number of its workers' threads.

    A task whose worker dies runs again on another. Raises ShardError if there is no scheduler, no worker, or no dask.
    """
    try:
        import dask
        import distributed
    except ImportError:
        raise ShardError("--scheduler needs dask.distributed; install it with: pip install dask distributed") from None
    try:
        with dask.config.set({"distributed.comm.timeouts.connect": f"{_WAIT_SECONDS}s"}):
            client = distributed.Client(address, set_as_default=False)
        client.wait_for_workers(1, timeout=_WAIT_SECONDS)
    except (OSError, ValueError) as error:
        raise ShardError(
            f"{address}: no dask scheduler with a worker answers within {_WAIT_SECONDS} s ({error}); start them with "
            "`dask scheduler` and `dask worker`, where this package is installed"
        ) from None
    with client:
        yield client.get_executor(pure=False, retries=3), max(1, sum(client.nthreads().values()))
