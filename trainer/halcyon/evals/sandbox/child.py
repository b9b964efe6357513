"""The process of a program on this machine: it takes its own rights away, then runs the program.

It imports only the standard library and this package. Its parent gives it the request as JSON on standard input, and
reads a pipe: first ``ready``, when the rights are gone, and at the end the token of the request, if program and checks
both ended without an exception.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from typing import Any

from halcyon.evals.sandbox import execution, filters, kernel, landlock
from halcyon.evals.sandbox.execution import READY

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
    os.write(report, READY)
    execution.execute(request, report)


def _give_up(request: dict[str, Any]) -> None:
    """Set limits, and give up all rights.

    Raises:
        OSError: The kernel refused.
    """
    kernel.prctl(kernel.PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
    if os.getppid() != request["parent"]:  # it has ended before that call
        os._exit(1)
    own = execution.forget()
    for name in [name for name in sys.modules if name.partition(".")[0] == "halcyon"]:
        del sys.modules[name]
    execution.limit(request)
    resource.setrlimit(resource.RLIMIT_MSGQUEUE, (0, 0))
    landlock.restrict([own])
    kernel.drop_capabilities()
    filters.install()
