"""``halcyon`` whose log waits before the event of the end until its standard input ends, such as when a test has
closed the reader of its standard output.
"""

from __future__ import annotations

import sys
from typing import Any

from halcyon.commands.main import app
from halcyon.telemetry import RunReporter

ended = RunReporter.ended


def wait_and_end(reporter: RunReporter, report: Any) -> None:
    sys.stdin.read()
    ended(reporter, report)


if __name__ == "__main__":
    RunReporter.ended = wait_and_end  # type: ignore[method-assign]
    app()
