"""The last resort of a process that has decided to end."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable


def call_after(seconds: float, call: Callable[[], object]) -> None:
    """Call a function in a thread of its own after this time, if the process lives and can still start a thread."""
    with contextlib.suppress(RuntimeError, MemoryError):
        timer = threading.Timer(seconds, call)
        timer.daemon = True
        timer.start()


def end_within(seconds: float, code: int) -> None:
    """Let this process end with an exit code in this time at the latest, whatever its threads wait for.

    Where no thread can run or start, the kernel ends it a second later, by SIGALRM.
    """
    signal.setitimer(signal.ITIMER_REAL, seconds + 1)
    call_after(seconds, lambda: os._exit(code))
