"""Postpones large pages until a process has started.

The trainer's image lets the C library ask for large pages (``GLIBC_TUNABLES``), so that the large buffers of a step need few page faults.
The system clears a whole large page, 2 MB, at the first use of any of its bytes. While a process starts, dozens of threads use a little of
their heaps each, so this clears many pages of which little is used, for a seventh of the processor time of a restart (docs/performance.md).
So a process that trains on the processor starts with small pages, and allows large ones after its first step.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_PR_SET_THP_DISABLE, _PR_GET_THP_DISABLE = 41, 42
"""Linux: include/uapi/linux/prctl.h."""


@contextmanager
def small_pages() -> Iterator[None]:
    """Use only small pages in this process until the end of the block. Processes that it starts inherit this.

    It has no effect where the system has no large pages, or where this process may not choose or has chosen already.
    """
    chosen = _prctl(_PR_GET_THP_DISABLE, 0) == 0 and _prctl(_PR_SET_THP_DISABLE, 1) == 0
    try:
        yield
    finally:
        if chosen:
            allow_large_pages()


def allow_large_pages() -> None:
    """Let this process use large pages where its memory asks for them, which is the system's default."""
    _prctl(_PR_SET_THP_DISABLE, 0)


def _prctl(option: int, value: int) -> int:
    return ctypes.CDLL(None).prctl(option, ctypes.c_ulong(value), *(ctypes.c_ulong(0),) * 3) if sys.platform == "linux" else -1
