"""The process of a program: it takes its own rights away, then runs the program.

It imports only the standard library and this package. Its parent gives it the request as JSON on standard input, and reads a pipe: first
``ready``, when the rights are gone, and at the end the token of the request, if program and checks both ended without an exception.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import math
import os
import resource
import signal
import sys
import sysconfig
import traceback
import types
from typing import Any

from halcyon.sandbox import filters, kernel, landlock

READY = b"ready\n"
REFUSED = b"refused "
_PRELOADED = ("bisect", "collections", "copy", "datetime", "decimal", "fractions", "hashlib", "heapq", "random", "statistics", "zlib")
"""Modules whose libraries lie outside of Python's own directory, and some that most programs import."""
_FILES = 32


def main() -> None:
    """Run the request. Arguments of the command: the file descriptor of the pipe."""
    report = int(sys.argv[1])
    request = json.loads(sys.stdin.buffer.read())
    try:
        _give_up(request)
    except OSError as error:
        os.write(report, REFUSED + str(error).encode())
        os._exit(1)
    os.write(report, READY)
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    try:
        for name in ("program", "checks"):
            exec(compile(request[name], f"<{name}>", "exec"), module.__dict__)  # noqa: S102 - it is what this process is for
        sys.stdout.flush()
    except BaseException as error:  # also SystemExit: a program that ends before its checks has not passed them
        with contextlib.suppress(BaseException):
            traceback.print_exception(type(error), error, error.__traceback__ and error.__traceback__.tb_next)
            sys.stderr.flush()
        os._exit(1)
    os.write(report, request["token"].encode())
    os._exit(0)


def _give_up(request: dict[str, Any]) -> None:
    """Set limits, and give up all rights.

    Raises:
        OSError: The kernel refused.
    """
    kernel.prctl(kernel.PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
    if os.getppid() != request["parent"]:  # it has ended before that call
        os._exit(1)
    for name in _PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.chdir("/")
    os.environ.clear()
    own = sysconfig.get_paths()["stdlib"]
    sys.path[:] = [path for path in sys.path if os.path.commonpath([path, own]) == own]
    sys.argv[:] = [""]
    for name in [name for name in sys.modules if name.partition(".")[0] == "halcyon"]:
        del sys.modules[name]
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = math.ceil(used.ru_utime + used.ru_stime + request["processorSeconds"])
    for limit, value in (
        (resource.RLIMIT_AS, request["memoryBytes"]),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_NOFILE, _FILES),
        (resource.RLIMIT_NPROC, 0),
    ):
        resource.setrlimit(limit, (value, value))
    landlock.restrict([own])
    kernel.drop_capabilities()
    filters.install()
