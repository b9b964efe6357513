"""Reads whole files whose paths a user gives: a pipe whose other end nobody opens, and a device that never ends, are no
files.
"""

import errno
import os
import stat
from pathlib import Path

MOST_TEXT_BYTES = 64 * 2**20
"""Bytes of a file that is read as one text."""
_OWN_STREAMS = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")
"""Paths of streams that the user's shell has opened, such as those of ``<(command)``."""


def user_path(text: str) -> Path:
    """The path that a user gives: ``~`` is the home folder. An unknown ``~name`` stays: opening it reports it."""
    return Path(os.path.expanduser(text))  # noqa: PTH111 - Path.expanduser raises


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


def read_text(path: Path, *, most_bytes: int | None = None) -> str:
    """The text of a file in UTF-8, without the mark that some editors put before it.

    Args:
        path: The file.
        most_bytes: Size of the longest file. Default: `MOST_TEXT_BYTES`.

    Raises:
        OSError: It cannot be read, is no file, or is longer.
        UnicodeDecodeError: It is no text.
    """
    most = MOST_TEXT_BYTES if most_bytes is None else most_bytes
    require_file(path)
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size > most or len(data := file.read(most + 1)) > most:
            size = f"{most >> 20} MiB" if most >= 2**20 else f"{most >> 10} KiB"
            raise OSError(errno.EFBIG, f"it is larger than {size}", str(path))
    return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")


def _name(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"
