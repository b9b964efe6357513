"""What the process asks of Linux: to keep freed memory, to lock memory, and how to schedule its threads.

Kept memory: glibc returns freed blocks above a threshold to the system. The next block of that size then needs new
pages, which the system zeroes at their first use. On virtual machines this costs more than a copy of the block. It
matters where blocks of megabytes are allocated again and again:

- Text that moves between processes in blocks: three to five times as fast with higher thresholds, and decompression 1.5
  times.
- The buffers of a step on a processor, which XLA allocates for each step: a small model trains 1.4 times as
  fast.

Blocks above `BLOCK_BYTES` always return to the system, so the memory of a large model does not grow.

Locked memory: TPU runtimes and RDMA need more than a container has by default. Kubernetes cannot set this limit
(RLIMIT_MEMLOCK) for a container, so a process that may raise it (root with SYS_RESOURCE, or privileged) does so itself.

Scheduling: Gloo has one thread a process that receives for all devices. If another thread holds the lock of a
connection, Gloo's thread does not wait for it: it asks the system for events again and again until the lock is free.
With few processors, a message that arrives starts Gloo's thread at once in place of the thread that holds the lock, and
then a good part of the processors' time goes into these questions. With the policy SCHED_BATCH a thread that wakes up
does not take the processor from another one, so the lock is free when it runs.
"""

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8
_USUAL_TRIM_THRESHOLD, _USUAL_MMAP_THRESHOLD = 2**26, 2**25
"""The thresholds that glibc itself reaches in a process that has freed large blocks."""
_USUAL_TOP_PAD = 2**17
_PR_SET_PDEATHSIG = 1
KEPT_BYTES = 512 * 2**20
BLOCK_BYTES = 64 * 2**20
"""The heap of a thread has this size in glibc, so larger blocks do not fit into one."""

_process_keeps = False
NO_LIMIT = resource.RLIM_INFINITY


def keep_freed_memory() -> bool:
    """Let this process keep freed memory for its next blocks, until it ends.

    It keeps up to about `KEPT_BYTES`, and `BLOCK_BYTES` in each heap of a thread.

    Returns:
        Whether the C library accepted the setting. It has no effect with C libraries other than glibc.
    """
    global _process_keeps
    _process_keeps = True
    if (library := _c_library()) is not None:
        # glibc makes up to eight heaps a processor, and each of them would keep memory.
        library.mallopt(_M_ARENA_MAX, max(2, len(os.sched_getaffinity(0))))
    return _keep()


def end_with_parent(number: signal.Signals) -> None:
    """Let the kernel send this process a signal when the thread that started it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Keep freed memory until the end of the block, for a process with other work afterwards.

    Then the free memory returns to the system, unless the process called `keep_freed_memory`.
    """
    _keep()
    try:
        yield
    finally:
        library = _c_library()
        if library is not None and not _process_keeps:
            library.mallopt(_M_MMAP_THRESHOLD, _USUAL_MMAP_THRESHOLD)
            library.mallopt(_M_TRIM_THRESHOLD, _USUAL_TRIM_THRESHOLD)
            library.mallopt(_M_TOP_PAD, _USUAL_TOP_PAD)
            library.malloc_trim(0)


def _keep() -> bool:
    library = _c_library()
    if library is None:
        return False
    # Older versions of glibc accept no larger threshold than the usual one.
    blocks = library.mallopt(_M_MMAP_THRESHOLD, BLOCK_BYTES) or library.mallopt(
        _M_MMAP_THRESHOLD, _USUAL_MMAP_THRESHOLD
    )
    # A thread other than the first has heaps of its own. Without the padding, glibc returns a heap with its last block.
    return bool(blocks and library.mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES) and library.mallopt(_M_TOP_PAD, BLOCK_BYTES))


def _c_library() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None


def raise_memory_lock() -> int:
    """Raise the limit as far as this process may, and return it in bytes (`NO_LIMIT`: unlimited)."""
    _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    for wanted in ((NO_LIMIT, NO_LIMIT), (hard, hard)):
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_MEMLOCK, wanted)
            break
    return resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]


def schedule_as_batch() -> None:
    """Use SCHED_BATCH for this thread and all threads that it starts.

    No effect on other systems than Linux, or if it is not allowed.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
