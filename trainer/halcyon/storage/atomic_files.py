"""Writes a file of a folder atomically and durably, as TensorStore's file driver does.

That driver copies the bytes first and writes the copy, which costs twice the processor time of the write alone. As a
file system may never answer, the system call runs in a thread for which neither the caller nor the end of the process
has to wait.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path

LEFTOVER_SUFFIX = ".__lock"
"""Suffix of a file that is not complete yet. TensorStore uses the same suffix, so its listings skip the file."""


def begin(work: Callable[[], None]) -> Future[None]:
    """Run `work` in a daemon thread, which does not keep the process alive."""
    future: Future[None] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="checkpoint-file", daemon=True).start()
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
