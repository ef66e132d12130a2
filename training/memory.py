"""Memory: how the C library handles what is freed, and what is said where there is too little.

For processes that allocate the same large tensors at every step.
"""

import contextlib
import ctypes
import platform
from collections.abc import Iterator

import torch

# malloc.h of glibc
_TRIM_THRESHOLD = -1
_MMAP_MAX = -4
# What torch says, in plain RuntimeErrors, of tensors that no memory is large enough for.
_TOO_LARGE = ("can't allocate memory", "storage size calculation overflowed", "not enough memory")


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, for its next allocations. Returns whether the C library can.

    glibc maps each large tensor of the CPU anew, and the system clears every page of it again: with the memory kept, a
    step takes an eighth less CPU time (`benchmarks/LOG.md`), and the process stays as large as it once was. Only
    glibc's `mallopt` is known to work so; elsewhere nothing changes.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))


@contextlib.contextmanager
def advising_on_memory() -> Iterator[None]:
    """Turn the errors of an allocation that fails, on CPU or GPU, into MemoryError with advice; let all others pass."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error).strip()
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if known or any(words in text.lower() for words in _TOO_LARGE):
            cause = text.splitlines()[0] if text else "an allocation failed"
            raise MemoryError(
                f"not enough memory: {cause}; try a higher --accumulate, or a lower --batch-size or --width"
            ) from error
        raise
