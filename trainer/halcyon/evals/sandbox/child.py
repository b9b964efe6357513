"""The process of a program on this machine: it takes its own rights away, then runs the program.

It imports only the standard library and this package. Its parent gives it the request as JSON on standard input, and
reads a pipe: first ``ready``, when the rights are gone, and at the end the token of the request, if program and checks
both ended without an exception.

Landlock (kernel documentation, userspace-api/landlock): the process gives up the file system, except reading below some
directories. A version of the kernel's interface adds rights that can be given up: moving files (2), cutting them (3),
TCP (4), device controls (5), signals and abstract sockets (6). All that the kernel knows are given up. Version 1 is
enough, because the seccomp filter forbids the calls behind the later ones too.

The seccomp filter (seccomp(2)) has the system calls that a program may make; every other one fails with EPERM. The list
has what a Python interpreter needs to compute, to print and to read its own library. There is no call for sockets, new
processes or threads, signals to others, tracing, mounts, keys, shared memory, or changes of files and their attributes.
Some calls are allowed with certain arguments only: files open for reading, and ``fcntl`` cannot choose a process that
gets signals.
"""

import ctypes
import errno
import json
import os
import resource
import signal
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from halcyon.evals.sandbox import execution

REFUSED = b"refused "


def main() -> None:
    """Run the request. Arguments of the command: the file descriptor of the pipe."""
    report = int(sys.argv[1])
    request = json.loads(sys.stdin.buffer.read())
    try:
        _give_up(request)
    except OSError as error:
        os.write(report, REFUSED + str(error).encode())
        os._exit(1)
    os.write(report, execution.READY)
    execution.execute(request, report)


def _give_up(request: dict[str, Any]) -> None:
    """Set limits, and give up all rights.

    Raises:
        OSError: The kernel refused.
    """
    prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
    if os.getppid() != request["parent"]:  # it has ended before that call
        os._exit(1)
    own = execution.forget()
    for name in [name for name in sys.modules if name.partition(".")[0] == "halcyon"]:
        del sys.modules[name]
    execution.limit(request)
    resource.setrlimit(resource.RLIMIT_MSGQUEUE, (0, 0))
    give_up_files(own)
    drop_capabilities()
    install_filter()


_LIBRARY = ctypes.CDLL(None, use_errno=True)

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SECCOMP_MODE_FILTER = 2
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


_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446
_GET_VERSION = 1
_RULE_PATH_BENEATH = 1
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
"""Number of rights on files, by the version that added the last of them."""
_NET_VERSION, _NET_RIGHTS = 4, 0b11
_SCOPE_VERSION, _SCOPES = 6, 0b11


class _Path(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def landlock_version() -> int:
    """The version of Landlock's interface in this kernel; 0 without Landlock."""
    try:
        return syscall(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(_GET_VERSION))
    except OSError:
        return 0


def give_up_files(readable: str) -> None:
    """Give up the file system for ever, and, where the kernel can, TCP, and signals to other processes.

    Args:
        readable: The directory below which files may still be read.

    Raises:
        OSError: The kernel refused.
    """
    there = landlock_version()
    rights = (1 << max((count for since, count in _FILE_RIGHTS.items() if since <= there), default=0)) - 1
    handled = [rights]
    if there >= _NET_VERSION:
        handled.append(_NET_RIGHTS)
    if there >= _SCOPE_VERSION:
        handled.append(_SCOPES)
    attributes = (ctypes.c_uint64 * len(handled))(*handled)
    ruleset = syscall(_CREATE, ctypes.byref(attributes), ctypes.c_size_t(ctypes.sizeof(attributes)), ctypes.c_uint32(0))
    try:
        parent = os.open(readable, os.O_PATH | os.O_CLOEXEC)
        try:
            rule = ctypes.byref(_Path(_READ_FILE | _READ_DIR, parent))
            syscall(_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(_RULE_PATH_BENEATH), rule, ctypes.c_uint32(0))
        finally:
            os.close(parent)
        prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1))
        syscall(_RESTRICT, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    finally:
        os.close(ruleset)


_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""AUDIT_ARCH of each machine: the numbers of system calls belong to it."""

_CALLS: Mapping[str, Mapping[str, int]] = json.loads(Path(__file__).with_name("calls.json").read_text(encoding="utf-8"))
"""Numbers of the calls that are allowed with any arguments, by machine. Some have no number on aarch64."""


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


def has_call_table() -> bool:
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
        if (number := numbers.get(machine)) is not None:
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


def install_filter() -> None:
    """Put the filter on this process for ever. It needs ``PR_SET_NO_NEW_PRIVS``, which `give_up_files` sets.

    Raises:
        OSError: The kernel refused.
    """
    code = instructions(os.uname().machine, os.getpid())
    kept = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.cast(kept, ctypes.c_void_p))
    prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), ctypes.byref(program))
