"""Runs a program in a process without rights, within limits, and says how it ended."""

import functools
import json
import os
import secrets
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from halcyon.evals.sandbox import child
from halcyon.evals.sandbox.execution import READY
from halcyon.host.errors import BadConfiguration, TrainerExit

Outcome = Literal["passed", "failed", "timeout", "memory", "output"]
"""How a program ended: with its checks passed; with an exception or too early; over its time, its memory, or the bytes
it may print.
"""

MOST_BYTES = 1 << 20
"""Bytes of the longest program with its checks."""
_PACKAGES = str(Path(__file__).parents[3])
_START = "import sys; sys.path.append(sys.argv.pop()); from halcyon.evals.sandbox.child import main; main()"
_FLAGS = ("-s", "-S", "-P", "-B", "-X", "utf8")
_ENVIRONMENT = {"PYTHONHASHSEED": "0"}
"""The order of sets is the same in every process, so a program prints the same each time."""
START_SECONDS = 60.0
"""Longest start of an interpreter; a limit of the program counts from its first line."""
_END_SECONDS = 5.0
"""Longest end of a process that has closed its pipes."""


@dataclass(frozen=True)
class Limits:
    """Limits of a program. It never has files, network, other processes or threads.

    Attributes:
        processor_seconds: Seconds of processor time: another load of the machine does not change which programs end in
            time.
        seconds: Seconds from the first line to the end.
        memory_bytes: Bytes of address space, the interpreter included.
        output_bytes: Bytes that it may print, errors included.
    """

    processor_seconds: int = 5
    seconds: float = 30.0
    memory_bytes: int = 512 << 20
    output_bytes: int = 1 << 16


@dataclass(frozen=True)
class Program:
    """A program in Python.

    Attributes:
        source: Its text.
        checks: Run after it, in the same module; they fail by an exception.
    """

    source: str
    checks: str = ""


@dataclass(frozen=True)
class Ran:
    """How a program ended.

    Attributes:
        outcome: See `Outcome`. The checks trust the names that the program defines: an object that equals everything
            passes most of them.
        output: What it printed, at most `Limits.output_bytes`.
        errors: What it printed to standard error.
    """

    outcome: Outcome
    output: str
    errors: str


class Unavailable(TrainerExit):
    """A program could not be run safely, so it was not run."""


def run(program: Program, limits: Limits | None = None) -> Ran:
    """Run a program.

    Raises:
        Unavailable: The rights of its process could not be taken away; nothing of it was run.
    """
    limits = limits or Limits()
    if sum(len(text.encode(errors="replace")) for text in (program.source, program.checks)) > MOST_BYTES:
        return Ran("failed", "", f"the program is longer than {MOST_BYTES} bytes\n")
    token = secrets.token_hex(16)  # reported when program and checks have ended without an exception
    request = {
        "program": program.source,
        "checks": program.checks,
        "token": token,
        "processorSeconds": limits.processor_seconds,
        "memoryBytes": limits.memory_bytes,
        "parent": os.getpid(),
    }
    with tempfile.TemporaryFile() as given:
        given.write(json.dumps(request).encode())
        given.seek(0)
        return _run(given, token.encode(), limits)


@functools.cache
def check() -> None:
    """Check that this machine can run programs safely. The answer is kept.

    Raises:
        BadConfiguration: It cannot; the sentence says what is missing.
    """
    reason = lacking()
    if reason is None:
        try:
            ran = run(Program("import socket\ntry:\n    socket.socket()\nexcept PermissionError:\n    print('safe')"))
        except Unavailable as error:
            reason = str(error)
        else:
            reason = (
                None if ran.output == "safe\n" else f"a program was not stopped from opening a socket ({ran.outcome})"
            )
    if reason is not None:
        raise BadConfiguration(
            f"model-written programs cannot be run safely on this machine: {reason}; use Linux 5.13 or later with "
            "Landlock and seccomp on x86_64 or aarch64, or leave out the tasks that run programs"
        )


def lacking() -> str | None:
    """What this machine lacks for running programs safely; None: nothing that can be seen without trying."""
    if sys.platform != "linux":
        return "it does not run Linux"
    if not child.has_call_table():
        return f"the system calls of {os.uname().machine} are not known"
    return None if child.landlock_version() >= 1 else "its kernel has no Landlock, or Landlock is not enabled"


def _run(given: IO[bytes], token: bytes, limits: Limits) -> Ran:
    end, report = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, *_FLAGS, "-c", _START, str(report), _PACKAGES],
            stdin=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_ENVIRONMENT,
            pass_fds=(report,),
            start_new_session=True,
            cwd="/",
        )
    except BaseException:
        os.close(end)
        raise
    finally:
        os.close(report)
    with process, os.fdopen(end, "rb", buffering=0) as reported:
        try:
            watched = _Watched(process, reported, limits)
            stopped = watched.read() or _ended(process)
        finally:
            process.kill()
    written = bytes(watched.texts[reported])
    if not written.startswith(READY):
        _, refused, why = written.partition(child.REFUSED)
        reason = why.decode(errors="replace") if refused else "it did not start"
        raise Unavailable(f"the process of the program could not give its rights up: {reason}")
    output, errors = (watched.texts[pipe].decode(errors="replace") for pipe in (process.stdout, process.stderr))
    return Ran(stopped or _outcome_of(process.returncode, written.removeprefix(READY) == token, errors), output, errors)


class _Watched:
    """Reads the pipes of a process until they end or a limit is reached."""

    def __init__(self, process: subprocess.Popen[bytes], reported: IO[bytes], limits: Limits) -> None:
        self._reported, self._limits = reported, limits
        self.texts: dict[Any, bytearray] = {pipe: bytearray() for pipe in (process.stdout, process.stderr, reported)}
        self._selector = selectors.DefaultSelector()
        for pipe in self.texts:
            self._selector.register(pipe, selectors.EVENT_READ)

    def read(self) -> Outcome | None:
        """Read. Returns the limit that was reached, or None at the end of the process."""
        with self._selector:
            until = time.monotonic() + START_SECONDS
            is_ready = False
            while self._selector.get_map():
                events = self._selector.select(max(0.0, until - time.monotonic()))
                if not events:
                    return "timeout"
                for key, _ in events:
                    part = os.read(key.fd, 1 << 16)
                    if not part:
                        self._selector.unregister(key.fileobj)
                    self.texts[key.fileobj] += part
                if not is_ready and self.texts[self._reported]:
                    is_ready, until = True, time.monotonic() + self._limits.seconds
                if self._cut():
                    return "output"
        return None

    def _cut(self) -> bool:
        """Keep the allowed bytes of each pipe. Returns whether there were more, of all together."""
        most = self._limits.output_bytes
        is_over = sum(len(text) for pipe, text in self.texts.items() if pipe is not self._reported) > most
        for text in self.texts.values():
            del text[most:]
        return is_over


def _ended(process: subprocess.Popen[bytes]) -> Outcome | None:
    """Wait for a process that has closed its pipes, as the end of a process does."""
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        return "timeout"
    return None


def _outcome_of(code: int, has_passed: bool, errors: str) -> Outcome:
    """How a process ended that reached no limit of its parent.

    Args:
        code: Its exit code; the negative number of the signal that ended it.
        has_passed: Whether it has reported its token.
        errors: What it printed to standard error. A program without words for its end may have used up its memory.
    """
    if has_passed and code == 0:
        return "passed"
    if code in (-signal.SIGKILL, -signal.SIGXCPU):
        return "timeout"
    return "memory" if errors.rstrip().endswith("MemoryError") else "failed"
