"""The C library's handling of freed memory, for processes that allocate the same large tensors at every step."""

import ctypes
import platform

# malloc.h of glibc
_TRIM_THRESHOLD = -1
_MMAP_MAX = -4


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
