"""Imports the program once, and runs each command that it is asked for in a forked process with limits.

A line of standard input is a request, a line of standard output its answer, both as JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

SECONDS = 10
"""Processor time that a row may use."""
MEMORY_BYTES = 512 * 2**20
"""Memory that a row may use beyond that of a process that has imported the program."""
_IMPORTED = (
    "jax", "matplotlib.figure", "pyarrow.parquet", "rich.progress", "tensorstore", "halcyon.data.cache.ensure",
    "halcyon.data.formats.chat", "halcyon.weights.creating", "halcyon.tokenizer.tokenizer_json", "halcyon_cli.main",
)  # fmt: skip
"""What commands import while they run; it does not count for the input."""


def main() -> None:
    """Answer requests until the end of the input."""
    for name in _IMPORTED:
        importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        with warnings.catch_warnings(
            action="ignore", category=DeprecationWarning
        ):  # about threads: those of libraries wait
            process = os.fork()
        if not process:
            os._exit(_run(request))
        before = _resident_bytes()
        _, status, used = os.wait4(process, 0)
        used_by = {
            "seconds": used.ru_utime + used.ru_stime,
            "memory_bytes": max(0, used.ru_maxrss * 1024 - before),
        }
        sys.stdout.write(f"{json.dumps([os.waitstatus_to_exitcode(status), used_by])}\n")
        sys.stdout.flush()


def _run(request: dict[str, Any]) -> int:
    """Run a command in this process, which is its own. Returns its exit code."""
    folder = Path(request["folder"])
    os.chdir(folder)
    os.environ.update(request["environment"])
    for number, name in ((1, "stdout"), (2, "stderr")):
        written = os.open(folder / f".{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(written, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    _limit(request["seconds"])
    from halcyon_cli.main import app

    try:
        app(request["command"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    else:
        code = 0
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _limit(wall_seconds: float) -> None:
    data = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (data + MEMORY_BYTES, data + MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
    signal.setitimer(signal.ITIMER_REAL, wall_seconds)  # of a command that waits without computing


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    main()
