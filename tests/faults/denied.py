"""Makes system calls of this process fail, by a seccomp filter: for errors that no file system of a test machine
produces.

An example is the errno of an exceeded quota: it needs a kernel with quotas, and a file system that was made for them.
Network file systems report it at `fsync`.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct

_CALLS = {"x86_64": {"fsync": 74, "fdatasync": 75}, "aarch64": {"fsync": 82, "fdatasync": 83}}
_LOAD_WORD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NO_NEW_PRIVILEGES, _SET_SECCOMP, _FILTER_ALL_THREADS = 38, 1, 1
_SECCOMP = {"x86_64": 317, "aarch64": 277}


def deny(call: str, errno: int) -> None:
    """Make `call` fail with `errno` from now on, in all threads of this process and in its children.

    This cannot be undone.
    """
    machine = platform.machine()
    instructions = [
        (_LOAD_WORD, 0, 0, 0),  # the number of the system call
        (_JUMP_IF_EQUAL, 0, 1, _CALLS[machine][call]),
        (_RETURN, 0, 0, _ERRNO | errno),
        (_RETURN, 0, 0, _ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in instructions))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(instructions), ctypes.addressof(code)))
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) or library.syscall(
        _SECCOMP[machine], _SET_SECCOMP, _FILTER_ALL_THREADS, program
    ):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
