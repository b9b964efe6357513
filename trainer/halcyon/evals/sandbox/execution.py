"""Runs a request in this process.

A program can read every module that its frames name, so this file imports only the standard library.
"""

import contextlib
import importlib
import math
import os
import resource
import sys
import sysconfig
import traceback
import types
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

READY = b"ready\n"
_PRELOADED = (
    "bisect",
    "collections",
    "copy",
    "datetime",
    "decimal",
    "fractions",
    "hashlib",
    "heapq",
    "random",
    "statistics",
    "zlib",
)
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


def execute(request: dict[str, Any], report: int) -> None:
    """Run the program and its checks, and end this process. If both ended without an exception, the token is written to
    `report`.

    A program can read and change each frame that called it, and every name of a module. So no frame keeps the token or
    the checks, and no name says what comes next: built-in `deque` and `map` hold the steps. The texts are compiled as
    files of their own, without the ``__future__`` imports of this file.

    Args:
        request: See `running.run`. Its texts and its token are taken out.
        report: A file descriptor.
    """
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    try:
        deque(
            map(
                partial.__call__,
                (
                    partial(sys.addaudithook, _refusal()),
                    partial(
                        exec, compile(request.pop("program"), "<program>", "exec", dont_inherit=True), module.__dict__
                    ),
                    partial(
                        exec, compile(request.pop("checks"), "<checks>", "exec", dont_inherit=True), module.__dict__
                    ),
                    partial(_flush),
                    partial(os.write, report, request.pop("token").encode()),
                    partial(os._exit, 0),
                ),
            ),
            maxlen=0,
        )
    except BaseException as error:  # also SystemExit: a program that ends before its checks has not passed them
        with contextlib.suppress(BaseException):
            traceback.print_exception(type(error), error, error.__traceback__ and error.__traceback__.tb_next)
            sys.stderr.flush()
            _flush()
    os._exit(1)


def _flush() -> None:
    sys.stdout.flush()


def _refusal() -> Callable[[str, object], None]:
    """A hook that refuses what shows objects without a name for them, or lets a program jump over lines of the checks.

    Its own names are in its closure: a program can change those of this module. Events:
    https://docs.python.org/3/library/audit_events.html.
    """
    refused = frozenset(("gc.get_objects", "gc.get_referents", "gc.get_referrers", "sys.settrace", "sys.setprofile"))
    prefixes = ("ctypes.", "sys.monitoring.")
    error = PermissionError

    def refuse(event: str, _arguments: object) -> None:
        if event in refused or event.startswith(prefixes):
            raise error(f"a program may not use {event}")

    return refuse
