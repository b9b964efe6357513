"""Mutual exclusion of the processes that compare and swap a key of a folder.

TensorStore's file driver has a lock of its own: the file that it writes the new value to, ``KEY.__lock``, before it renames it to
``KEY``. A killed writer leaves that file, and the next writer writes over it without cutting it (0.1.86): whatever was longer stays at
the end of the new value. So the driver's lock is switched off; it then writes to a fresh file each time, and what it compares and renames
is guarded here, by a lock on a file that is never written, renamed or deleted.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from halcyon.storage.atomic_files import LEFTOVER_SUFFIX
from halcyon.storage.failures import Abandoned, StoreFailure, from_os

_PAUSE_SECONDS = 0.005


@contextmanager
def exclusive(lock: Path, *, timeout_seconds: float, abandoned: Callable[[], bool]) -> Iterator[None]:
    """Hold the lock on a file, which is made where it does not exist. The system gives it up when the process ends, however it ends.

    Raises:
        StoreFailure: Another process holds it for too long, or the file system has no locks.
        Abandoned: The work was abandoned while waiting.
    """
    deadline = time.monotonic() + timeout_seconds
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise from_os(error) from None
    try:
        while not _try(descriptor):
            if abandoned():
                raise Abandoned
            if time.monotonic() >= deadline:
                raise StoreFailure("DEADLINE_EXCEEDED", f"another process held the lock on {lock.name} for {timeout_seconds:g} s")
            time.sleep(_PAUSE_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise from_os(error) from None
    return True


def remove_leftovers(path: Path) -> None:
    """Delete the files that killed writers of `path` left beside it. Call it only with the lock held: no other process writes then."""
    for leftover in path.parent.glob(f"{path.name}*{LEFTOVER_SUFFIX}"):
        if leftover.name == f"{path.name}{LEFTOVER_SUFFIX}" or leftover.name.startswith(f"{path.name}_"):
            leftover.unlink(missing_ok=True)
