"""Lets the system refuse calls of this process from now on, by a seccomp filter: for errors that no file system here can be brought to.

The errno of an exceeded quota is one: it takes a kernel with quotas, and a file system that was made for them. On network file systems it
is `fsync` that tells of it.
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
    """From now on `call` fails with `errno`, in all threads of this process and in its children, for ever."""
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
    if library.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) or library.syscall(_SECCOMP[machine], _SET_SECCOMP, _FILTER_ALL_THREADS, program):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
