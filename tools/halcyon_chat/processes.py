"""Runs a stage as a process of `halcyon`, and reads what it prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

_SHOWN_LINES = 12
_TAIL_BYTES = 8192


class Failed(Exception):
    """A stage has ended with an error. The message is a sentence, and the last lines that the process printed."""


def run(arguments: Sequence[str], log: Path, on_event: Callable[[dict[str, Any]], object]) -> None:
    """Run `halcyon` until it ends.

    Args:
        arguments: Its arguments.
        log: Everything that it prints is added to this file.
        on_event: Called with each JSON object that it prints.

    Raises:
        Failed: It has ended with an error.
        KeyboardInterrupt: This process was interrupted. The process of the stage has ended, and a training has saved
            its last step.
    """
    with log.open("ab") as file:
        before = file.tell()
        with start(arguments, file) as process:
            try:
                for line in process.stdout or ():
                    file.write(line)
                    file.flush()
                    if (event := event_of(line)) is not None:
                        on_event(event)
                code = process.wait()
            except KeyboardInterrupt:
                sys.stderr.write("stopping: a training saves its last step; Ctrl-C again ends it at once\n")
                end(process)
                raise
            except BaseException:  # a fault of this process must not leave the training without a reader
                end(process)
                raise
    if code != 0:
        raise Failed(
            f"{reason(code)}; {log} has all that it printed, and the last lines are:\n{last_lines(log, before)}"
        )


def start(
    arguments: Sequence[str], errors: IO[bytes] | None = None, stdout: int = subprocess.PIPE
) -> subprocess.Popen[bytes]:
    """Start `halcyon` in a process that saves and ends if this one is killed. A report, which takes seconds, goes on.

    Its standard error is the given file, or that of this process.
    """
    child = ["halcyon_cli.main"] if arguments[0] == "report" else ["halcyon.commands.child", str(os.getpid())]
    command = [sys.executable, "-m", *child, *arguments]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=errors)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to end, and wait for it. A second interrupt kills it."""
    process.terminate()
    try:
        process.communicate()
    except KeyboardInterrupt:
        process.kill()
        process.communicate()


def event_of(line: bytes) -> dict[str, Any] | None:
    """The JSON object of a line; None: the line is something else."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def reason(code: int) -> str:
    """How a process with this exit code ended, as a part of a sentence."""
    return f"the process was killed by signal {-code}" if code < 0 else f"the process ended with exit code {code}"


def last_lines(log: Path, begin: int) -> str:
    """The last lines of a file after a position, for the message of a failure."""
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(begin, size - _TAIL_BYTES))
        text = file.read().decode(errors="replace")
    return "\n".join(f"  {line}" for line in text.splitlines()[-_SHOWN_LINES:])
