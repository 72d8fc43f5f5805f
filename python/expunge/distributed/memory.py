"""Memory of a worker: what a step has freed is kept for the next one rather than mapped anew."""

from __future__ import annotations

import ctypes
import os
from functools import lru_cache

__all__ = ["keep_freed_memory"]

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_SETTINGS = ((_MMAP_THRESHOLD, 1 << 25), (_TRIM_THRESHOLD, 1 << 28), (_TOP_PAD, 1 << 26))


@lru_cache(maxsize=1)
def keep_freed_memory() -> bool:
    """Have the allocator of this process keep what is freed, up to some 256 MiB; return whether it does now.

    Dask starts its workers with ``MALLOC_TRIM_THRESHOLD_=65536``. Every array of a block is then mapped, zeroed page by
    page and unmapped again: a pass takes up to 1.6 times the processor time that it takes elsewhere. Where nobody set
    that variable, or the C library is another than glibc, nothing is done.
    """
    if "MALLOC_TRIM_THRESHOLD_" not in os.environ:
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return all(mallopt(*one) == 1 for one in _SETTINGS)
