"""The files of a folder: written atomically and durably, and locked during a compare-and-swap.

TensorStore's file driver copies the bytes first and writes the copy, which costs twice the processor time of the write
alone. As a file system may never answer, the system call runs in a thread for which neither the caller nor the end of
the process has to wait.

The driver has its own lock: the file ``KEY.__lock``, to which it writes the new value before it renames the file to
``KEY``. A killed writer leaves that file, and the next writer overwrites it without truncating it (0.1.86): the end of
a longer old value stays at the end of the new value. So the driver's lock is switched off, and the driver writes to a
fresh file each time. `exclusive` guards its comparison and rename with a lock on a file that is never written, renamed
or deleted.
"""

import contextlib
import fcntl
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from halcyon.host.storage.failures import Abandoned, StoreFailure, from_os

Result = TypeVar("Result")

LEFTOVER_SUFFIX = ".__lock"
"""Suffix of a file that is not complete yet. TensorStore uses the same suffix, so its listings skip the file."""
_PAUSE_SECONDS = 0.005


def begin(work: Callable[[], Result], *, name: str) -> Future[Result]:
    """Run `work` in a daemon thread of this name, which does not keep the process alive."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


def write_file(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    """Write a file and wait until it is on the disk. If the process is killed during the write, no file of this name is
    created or changed.

    Raises:
        OSError: The file system reported an error.
    """
    temporary = path.with_name(f"{path.name}_{secrets.token_hex(8)}{LEFTOVER_SUFFIX}")
    descriptor = _create(temporary)
    try:
        try:
            for piece in pieces:
                rest = memoryview(piece)
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.rename(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _create(path: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o666)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, flags, 0o666)


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
