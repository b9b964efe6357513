"""Chooses how Linux schedules the threads of a process.

Gloo has one thread a process that receives for all devices. If another thread holds the lock of a connection, Gloo's
thread does not wait for it: it asks the system for events again and again until the lock is free. With few processors,
a message that arrives starts Gloo's thread at once in place of the thread that holds the lock, and then a good part of
the processors' time goes into these questions. With the policy SCHED_BATCH a thread that wakes up does not take the
processor from another one, so the lock is free when it runs (docs/performance.md).
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress


def schedule_as_batch() -> None:
    """Use SCHED_BATCH for this thread and all threads that it starts.

    No effect on other systems than Linux, or if it is not allowed.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
