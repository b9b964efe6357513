"""The end of a training process with a fault in one of its steps: ``python -m tests.trainer.support.ending_child FAULT
TERMINATION_LOG``.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

from halcyon.host.errors import BadConfiguration
from halcyon.host.output import guard_streams
from halcyon.run import process
from halcyon.telemetry import JsonLog
from halcyon_api.ends import EndCause
from tests.suite.limits import limit
from tests.trainer.telemetry.fakes import Scene


def hang(*_: object) -> None:
    threading.Event().wait()


def hang_with_the_interpreter(*_: object) -> None:
    ctypes.PyDLL(None).pause()


def leave_the_program(*_: object) -> NoReturn:
    raise SystemExit(3)


def main() -> None:
    """End as completed, with the fault that the arguments name."""
    fault, termination_log = sys.argv[1:]
    guard_streams()
    process._REST_SECONDS = process.CLOSING_SECONDS = 0.5
    reporter: Any = Scene().reporter
    reporter.log = JsonLog(sys.stdout, reporter.identity)
    context: Any = SimpleNamespace(process_count=1, process_index=0, in_pod=True, termination_log=Path(termination_log))
    ending = process._Ending("halcyon train run.yaml", context, reporter)

    def leave_again(*_: object) -> NoReturn:
        ending.leave(EndCause.FAILED, "another cause")

    def leave_in_another_thread(*_: object) -> None:
        other = threading.Thread(target=leave_again, daemon=True)
        other.start()
        other.join(limit(0.1))

    faults = {
        "hangs": hang,
        "hangs with the interpreter": hang_with_the_interpreter,
        "fails": leave_the_program,
        "ends again": leave_again,
        "ends in another thread": leave_in_another_thread,
    }
    if fault == "error":  # before what the training has opened is closed, which hangs
        ending.fails(BadConfiguration("spec.data: there is no text"))
        hang()
    step, _, what = fault.partition(" ")
    where = reporter.log if step in ("event", "close") else reporter
    if fault:
        setattr(where, step, faults[what])
    ending.leave(EndCause.COMPLETED, "all steps are done")


if __name__ == "__main__":
    main()
