"""Room for file descriptors: a mapped tar holds one (Python's mmap keeps it), and a process may start with 1,024."""

import errno
import resource
from pathlib import Path

from sharding.errors import ShardError

SPARE = 256
"""What is left for everything else that a process opens: other shards' indexes, checkpoints, logs, libraries."""


def make_room(files: int) -> None:
    """Raise this process's limit for `files` more than are open now, as far as the hard limit lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = len(list(Path("/proc/self/fd").iterdir())) + files + SPARE
    wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def explained(error: OSError, tar: Path, shards: int) -> OSError | ShardError:
    """The error of opening or mapping `tar`, of a set of `shards`; one of too many open files says what to do."""
    if error.errno != errno.EMFILE:
        return error
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return ShardError(
        f"{tar}: this process may hold {limit} files open (hard limit), the set has {shards} shards, each mapped; "
        f"raise the limit (as root: ulimit -n {shards + 2 * SPARE}), or pack fewer, larger shards"
    )
