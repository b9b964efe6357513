"""Landlock: this process gives up the file system, except reading below some directories (kernel documentation,
userspace-api/landlock).

A version of the kernel's interface adds rights that can be given up: moving files (2), cutting them (3), TCP (4),
device controls (5), signals and abstract sockets (6). All that the kernel knows are given up. Version 1 is enough,
because the seccomp filter forbids the calls behind the later ones too.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable

from halcyon.evals.sandbox import kernel

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


def version() -> int:
    """The version of Landlock's interface in this kernel; 0 without Landlock."""
    try:
        return kernel.syscall(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(_GET_VERSION))
    except OSError:
        return 0


def restrict(readable: Iterable[str]) -> None:
    """Give up the file system for ever, and, where the kernel can, TCP, and signals to other processes.

    Args:
        readable: Directories below which files may still be read.

    Raises:
        OSError: The kernel refused.
    """
    there = version()
    rights = (1 << max((count for since, count in _FILE_RIGHTS.items() if since <= there), default=0)) - 1
    handled = [rights]
    if there >= _NET_VERSION:
        handled.append(_NET_RIGHTS)
    if there >= _SCOPE_VERSION:
        handled.append(_SCOPES)
    attributes = (ctypes.c_uint64 * len(handled))(*handled)
    ruleset = kernel.syscall(
        _CREATE, ctypes.byref(attributes), ctypes.c_size_t(ctypes.sizeof(attributes)), ctypes.c_uint32(0)
    )
    try:
        for path in readable:
            parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                rule = _Path(_READ_FILE | _READ_DIR, parent)
                kernel.syscall(
                    _ADD_RULE,
                    ctypes.c_int(ruleset),
                    ctypes.c_int(_RULE_PATH_BENEATH),
                    ctypes.byref(rule),
                    ctypes.c_uint32(0),
                )
            finally:
                os.close(parent)
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1))
        kernel.syscall(_RESTRICT, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    finally:
        os.close(ruleset)
