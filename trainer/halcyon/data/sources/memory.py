"""Keeps freed memory in the process, so that text in blocks of megabytes does not need new pages for each block.

glibc returns freed blocks above a threshold to the system. The next block of that size then needs new pages, which the system zeroes at
their first use. On virtual machines this costs more than the copy. With higher thresholds, sending a piece to another process was three to
five times as fast, and decompression 1.5 times as fast (tests/bench/bench_sources.py).
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_USUAL_TRIM_THRESHOLD = 2**26
"""The threshold that glibc itself reaches in a process that has freed large blocks."""
KEPT_BYTES = 512 * 2**20


def keep_freed_memory(kept_bytes: int = KEPT_BYTES) -> bool:
    """Let this process keep up to about `kept_bytes` of freed memory for its next blocks.

    For processes whose work is to move text; call it once at their start.

    Returns:
        Whether the C library accepted the setting. It has no effect with C libraries other than glibc.
    """
    library = _c_library()
    if library is None:
        return False
    return bool(library.mallopt(_M_MMAP_THRESHOLD, min(kept_bytes, 2**25))) and bool(library.mallopt(_M_TRIM_THRESHOLD, kept_bytes))


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """`keep_freed_memory` until the end of the block, for a process with other work afterwards. Then returns free memory to the system."""
    keep_freed_memory()
    try:
        yield
    finally:
        if (library := _c_library()) is not None:
            library.mallopt(_M_TRIM_THRESHOLD, _USUAL_TRIM_THRESHOLD)
            library.malloc_trim(0)


def _c_library() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
