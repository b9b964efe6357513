"""The seccomp filter: the system calls that a program may make. Every other one fails with EPERM (seccomp(2)).

The list has what a Python interpreter needs to compute, to print and to read its own library. There is no call for
sockets, new processes or threads, signals to others, tracing, mounts, keys, shared memory, or changes of files and
their attributes. Some calls are allowed with certain arguments only: files open for reading, and ``fcntl`` cannot
choose a process that gets signals.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Mapping
from typing import NamedTuple

from halcyon.evals.sandbox import kernel

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""AUDIT_ARCH of each machine: the numbers of system calls belong to it."""

_CALLS: Mapping[str, tuple[int | None, int | None]] = {
    "access": (21, None),
    "brk": (12, 214),
    "clock_getres": (229, 114),
    "clock_gettime": (228, 113),
    "clock_nanosleep": (230, 115),
    "close": (3, 57),
    "dup": (32, 23),
    "dup2": (33, None),
    "dup3": (292, 24),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "fstat": (5, 80),
    "futex": (202, 98),
    "getcwd": (79, 17),
    "getdents64": (217, 61),
    "getegid": (108, 177),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getpid": (39, 172),
    "getrandom": (318, 278),
    "getrusage": (98, 165),
    "gettid": (186, 178),
    "gettimeofday": (96, 169),
    "getuid": (102, 174),
    "lseek": (8, 62),
    "lstat": (6, None),
    "madvise": (28, 233),
    "membarrier": (324, 283),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "mremap": (25, 216),
    "munmap": (11, 215),
    "nanosleep": (35, 101),
    "newfstatat": (262, 79),
    "poll": (7, None),
    "ppoll": (271, 73),
    "pread64": (17, 67),
    "pselect6": (270, 72),
    "read": (0, 63),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "readv": (19, 65),
    "restart_syscall": (219, 128),
    "rseq": (334, 293),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sched_getaffinity": (204, 123),
    "sched_yield": (24, 124),
    "select": (23, None),
    "set_robust_list": (273, 99),
    "setitimer": (38, 103),
    "sigaltstack": (131, 132),
    "stat": (4, None),
    "statx": (332, 291),
    "time": (201, None),
    "times": (100, 153),
    "uname": (63, 160),
    "write": (1, 64),
    "writev": (20, 66),
}
"""Numbers of the calls that are allowed with any arguments, on x86_64 and on aarch64."""


class _Checked(NamedTuple):
    """A call that is allowed if one of its arguments is."""

    numbers: tuple[int, int]
    argument: int
    equal: tuple[int, ...] = ()
    """Allowed values."""
    without: int = 0
    """Bits that must not be set; if given, `equal` is not looked at."""


_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | 0o20000000  # the last: the own bit of O_TMPFILE
_FCNTL = (0, 1, 2, 3, 4, 1030)  # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC
_IOCTL = (0x5401, 0x5451)  # TCGETS, of isatty; FIOCLEX


def _checked(process: int) -> tuple[_Checked, ...]:
    return (
        _Checked((257, 56), 2, without=_WRITES),  # openat
        _Checked((72, 25), 1, equal=_FCNTL),  # fcntl
        _Checked((16, 29), 1, equal=_IOCTL),  # ioctl
        _Checked((234, 131), 0, equal=(process,)),  # tgkill, of abort()
    )


_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_JMP|JSET|K, BPF_RET|K
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_REFUSE = _ERROR | errno.EPERM


def has_table() -> bool:
    """Whether the calls of this machine's architecture are known."""
    return os.uname().machine in _ARCHITECTURES


def instructions(machine: str, process: int) -> bytes:
    """The filter as BPF instructions, 8 bytes each. Pure.

    Args:
        machine: ``x86_64`` or ``aarch64``.
        process: The id of the process; it may send signals to itself.
    """
    column = list(_ARCHITECTURES).index(machine)
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, _ARCHITECTURES[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    for numbers in _CALLS.values():
        number = numbers[column]
        if number is not None:
            program += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    for call in _checked(process):
        # The low half of an argument (little-endian): the kernel takes these arguments as 32 bits.
        body = [(_LOAD, 0, 0, _ARGUMENTS + 8 * call.argument)]
        if call.without:
            body += [(_ANY_BIT, 1, 0, call.without), (_RETURN, 0, 0, _ALLOW)]
        else:
            for value in call.equal:
                body += [(_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ALLOW)]
        body.append((_RETURN, 0, 0, _REFUSE))
        program += [(_EQUAL, 0, len(body), call.numbers[column]), *body]
    program.append((_RETURN, 0, 0, _REFUSE))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def install() -> None:
    """Put the filter on this process for ever. It needs ``PR_SET_NO_NEW_PRIVS``, which `landlock.restrict` sets.

    Raises:
        OSError: The kernel refused.
    """
    code = instructions(os.uname().machine, os.getpid())
    kept = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.cast(kept, ctypes.c_void_p))
    kernel.prctl(kernel.PR_SET_SECCOMP, ctypes.c_ulong(kernel.SECCOMP_MODE_FILTER), ctypes.byref(program))
