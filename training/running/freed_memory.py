"""What a training step frees is kept for the next one: on CPUs a third of every step was the system's page faults."""

from __future__ import annotations

import ctypes

# malloc.h of glibc: names of what is set, and values
ARENA_MAX, MMAP_MAX, TRIM_THRESHOLD = -8, -4, -1
AT_MOST = 2**31 - 1  # the values are ints; as a threshold of memory that is not given back: about 2 GB are kept


def keep_freed_memory() -> None:
    """Tell the C library not to give large buffers back to the system; one other than glibc stays as it is.

    Arrays of a step are of the same sizes as those of the one before. By default each that is larger than 32 MB is
    mapped and unmapped every time, and the system fills it with zeros, page by page.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for name, value in ((MMAP_MAX, 0), (TRIM_THRESHOLD, AT_MOST), (ARENA_MAX, 1)):
            mallopt(name, value)
