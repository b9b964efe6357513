"""Calls of the kernel that Python has no functions for. They raise `OSError` like those of `os`."""

from __future__ import annotations

import ctypes
import os

_LIBRARY = ctypes.CDLL(None, use_errno=True)

PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38
SECCOMP_MODE_FILTER = 2
_CAPSET = {"x86_64": 126, "aarch64": 91}
_CAPABILITY_VERSION_3 = 0x20080522


def syscall(number: int, *arguments: object) -> int:
    """Call the kernel by the number of the system call; see syscall(2)."""
    result = _LIBRARY.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise _failure(f"system call {number}")
    return result


def prctl(option: int, *arguments: object) -> None:
    """Change a setting of this process; see prctl(2)."""
    padded = [*arguments, *[ctypes.c_ulong(0)] * (4 - len(arguments))]
    if _LIBRARY.prctl(option, *padded) < 0:
        raise _failure(f"prctl {option}")


def drop_capabilities() -> None:
    """Give up every capability of this process, such as those of root; see capset(2)."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    syscall(_CAPSET[os.uname().machine], ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)()))


def _failure(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")
