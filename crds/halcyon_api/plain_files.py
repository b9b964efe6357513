"""Reads whole files whose paths a user gives: a pipe whose other end nobody opens, and a device that never ends, are no
files.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

MOST_TEXT_BYTES = 64 * 2**20
"""Bytes of a file that is read as one text."""
_OWN_STREAMS = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")
"""Paths of streams that the user's shell has opened, such as those of ``<(command)``."""


def require_file(path: Path) -> None:
    """Check, without opening it, that a path that exists leads to a file.

    Raises:
        OSError: It is a pipe, a socket or a device.
    """
    if str(path).startswith(_OWN_STREAMS):
        return
    try:
        mode = path.stat().st_mode
    except OSError:
        return  # opening it reports the problem
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, f"it is {_name(mode)}, not a file", str(path))


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """The text of a file.

    Raises:
        OSError: It cannot be read, is no file, or has more than `MOST_TEXT_BYTES`.
        UnicodeDecodeError: It is no text.
    """
    require_file(path)
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size > MOST_TEXT_BYTES:
            raise OSError(errno.EFBIG, f"it is larger than {MOST_TEXT_BYTES >> 20} MiB", str(path))
        return file.read().decode(encoding).replace("\r\n", "\n").replace("\r", "\n")


def _name(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"
