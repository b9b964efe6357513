"""Keep freed memory in the process, so that text that flows through it in blocks of megabytes does not touch new pages for each.

glibc gives blocks above a threshold back to the system when they are freed, and the next one of that size is new pages, which the system
zeroes at their first touch. On virtual machines that costs more than the copying: with the thresholds raised, handing a piece to another
process was three to five times as fast, and decompressing by half faster (tests/bench/bench_sources.py).
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_USUAL_TRIM_THRESHOLD = 2**26
"""What glibc comes to by itself in a process that has freed large blocks."""
KEPT_BYTES = 512 * 2**20


def keep_freed_memory(kept_bytes: int = KEPT_BYTES) -> bool:
    """Let this process keep up to about `kept_bytes` of freed memory for its next blocks.

    For processes whose work is to move text; call it once at their start.

    Returns:
        Whether the C library took the setting. Libraries other than glibc are left as they are.
    """
    library = _c_library()
    if library is None:
        return False
    return bool(library.mallopt(_M_MMAP_THRESHOLD, min(kept_bytes, 2**25))) and bool(library.mallopt(_M_TRIM_THRESHOLD, kept_bytes))


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """`keep_freed_memory` for a while, for a process that has something else to do afterwards: what is free then is given back."""
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
