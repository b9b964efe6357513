"""Runs a request in this process: what is the same in a process of this machine (`child`) and in a pod of a pool (`in_pod`).

A pod gets the text of this file, so the file imports only the standard library, and takes Python 3.9 or later.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import resource
import sys
import sysconfig
import traceback
import types
from collections.abc import Mapping
from typing import Any

READY = b"ready\n"
_PRELOADED = ("bisect", "collections", "copy", "datetime", "decimal", "fractions", "hashlib", "heapq", "random", "statistics", "zlib")
"""Modules whose libraries lie outside of Python's own directory, and some that most programs import."""
_FILES = 32


def forget() -> str:
    """Leave the program nothing of this process: no input, environment, arguments, or modules other than Python's own.

    Returns:
        The directory of Python's own library.
    """
    for name in _PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.chdir("/")
    os.environ.clear()
    own = sysconfig.get_paths()["stdlib"]
    sys.path[:] = [path for path in sys.path if path and os.path.commonpath([path, own]) == own]
    sys.argv[:] = [""]
    return own


def limit(request: Mapping[str, Any]) -> None:
    """Limit processor time and memory, and forbid files and other processes.

    These limits are also known to gVisor. It does not enforce the number of processes; there the pod limits what they use.

    Raises:
        OSError: The kernel refused.
        ValueError: A limit is above that of the process.
    """
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = math.ceil(used.ru_utime + used.ru_stime + request["processorSeconds"])
    for kind, value in (
        (resource.RLIMIT_AS, request["memoryBytes"]),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_NOFILE, _FILES),
        (resource.RLIMIT_NPROC, 0),
    ):
        resource.setrlimit(kind, (value, value))


def execute(request: Mapping[str, Any], report: int) -> None:
    """Run the program and its checks, and end this process. If both ended without an exception, the token is written to `report`."""
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


def main_in_pod() -> None:
    """Run the request in the next line of standard input; standard output gets the report too, before and after what the program prints."""
    request = json.loads(sys.stdin.buffer.readline())
    report = os.dup(1)
    forget()
    limit(request)
    os.write(report, READY)
    execute(request, report)
