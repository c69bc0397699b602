"""The C library's allocator, set up for training."""

import ctypes
import sys

__all__ = ["tune_allocator"]

# Parameters of mallopt, as glibc's malloc.h numbers them.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def tune_allocator() -> bool:
    """Makes glibc keep freed memory, and returns whether that worked.

    A training step frees and asks for the same large blocks again; by default glibc hands them
    back to the system each time and pays for it in page faults. This sets for the running process
    what MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=2147483647 MALLOC_TOP_PAD_=268435456 set before
    it starts. Memory use stays near its peak. `tfgen train` calls it; `benchmarks/allocator.py`
    measures it. On anything but Linux with glibc it does nothing.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return False
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 2**28))
    told = [mallopt(parameter, value) for parameter, value in settings]
    return all(told)
