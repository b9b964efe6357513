"""Mutual exclusion of the processes that compare and swap a key of a folder.

TensorStore's file driver has its own lock: the file ``KEY.__lock``, to which it writes the new value before it renames
the file to ``KEY``. A killed writer leaves that file, and the next writer overwrites it without truncating it (0.1.86):
the end of a longer old value stays at the end of the new value. So the driver's lock is switched off, and the driver
writes to a fresh file each time. This module guards its comparison and rename with a lock on a file that is never
written, renamed or deleted.
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
    """Hold the lock on a file, which is created if it does not exist. The kernel releases the lock when the process
    ends, even when killed.

    Raises:
        StoreFailure: Another process held the lock for `timeout_seconds`, or the file system does not support locks.
        Abandoned: The work was abandoned during the wait.
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
                raise StoreFailure(
                    "DEADLINE_EXCEEDED", f"another process held the lock on {lock.name} for {timeout_seconds:g} s"
                )
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
    """Delete the temporary files of killed writers of `path`.

    Call it only with the lock held, so that no other process writes.
    """
    for leftover in path.parent.glob(f"{path.name}*{LEFTOVER_SUFFIX}"):
        if leftover.name == f"{path.name}{LEFTOVER_SUFFIX}" or leftover.name.startswith(f"{path.name}_"):
            leftover.unlink(missing_ok=True)
