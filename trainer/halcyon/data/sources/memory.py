"""Keep freed memory in the process, so that text that flows through it in blocks of megabytes does not touch new pages for each.

glibc gives blocks above a threshold back to the system when they are freed, and the next one of that size is new pages, which the system
zeroes at their first touch. On virtual machines that costs more than the copying: with the thresholds raised, handing a piece to another
process was three to five times as fast, and decompressing by half faster (tests/bench/bench_sources.py).
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 512 * 2**20


def keep_freed_memory(kept_bytes: int = KEPT_BYTES) -> bool:
    """Let this process keep up to about `kept_bytes` of freed memory for its next blocks.

    For processes whose work is to move text; call it once at their start.

    Returns:
        Whether the C library could be told. Others than glibc are left as they are.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, min(kept_bytes, 2**25))) and bool(mallopt(_M_TRIM_THRESHOLD, kept_bytes))
