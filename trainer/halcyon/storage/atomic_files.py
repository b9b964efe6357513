"""Writing a file of a folder: whole or not at all, and on the disk when it is done, as TensorStore's driver does it.

That driver takes a copy of the bytes first and writes the copy, which together cost twice the processor time of the write alone. What must
not be lost is that a file system may never answer: the system call is made in a thread of its own that no one has to wait for, neither
neither the caller nor the end of the process.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

LEFTOVER_SUFFIX = ".__lock"
"""End of the name of a file that is not whole yet; TensorStore's own, so its listings pass over it."""


def begin(work: Callable[[], None]) -> Future[None]:
    """Do something in a thread that does not keep the process alive."""
    future: Future[None] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="checkpoint-file", daemon=True).start()
    return future


def write_file(path: Path, pieces: Sequence[bytes | memoryview]) -> None:
    """Write a file and wait until it is on the disk. A process that is killed meanwhile leaves no file of this name.

    Raises:
        OSError: The file system refused.
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
