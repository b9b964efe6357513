"""Runs a program in a container of a pod over a connection of the Kubernetes exec API, and says how it ended.

The process in the pod (`execution`) limits itself, but a program may undo that: this side also counts the seconds and
the bytes, and ends the connection at a limit. The pod's claim is deleted afterwards, and with it everything that the
program has left.
"""

from __future__ import annotations

import json
import secrets
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from halcyon.evals.sandbox import execution
from halcyon.evals.sandbox.execution import READY
from halcyon.evals.sandbox.running import START_SECONDS, Limits, Outcome, Program, Ran, outcome_of, request_of

_READ_SOURCE = "import sys; exec(sys.stdin.buffer.read(int(sys.stdin.buffer.readline())))"
COMMAND = ("env", "PYTHONHASHSEED=0", "python3", "-s", "-S", "-B", "-X", "utf8", "-c", _READ_SOURCE)
"""The command in the container.

It reads its own source from standard input, so an image needs Python 3.9 or later, and no Halcyon.
"""
STDIN, STDOUT, STDERR, STATUS = range(4)
"""Channels of a connection (https://kubernetes.io/docs/reference/using-api/websockets).

The last one ends the command: a Status in JSON.
"""
_PIECE_BYTES = 1 << 15
_SIGNALS_FROM = 128
"""A runtime reports a signal as exit code 128 and its number."""


class Frame(NamedTuple):
    """A piece of a stream."""

    channel: int
    data: bytes


class Connection(Protocol):
    """A connection to a command in a pod."""

    def send(self, data: bytes) -> None:
        """Write to the command's standard input. It raises `Lost`."""
        ...

    def receive(self, seconds: float) -> Frame | None:
        """The next piece; None if there was none for some seconds. It raises `Lost` at the end of the connection."""
        ...


class Lost(Exception):
    """The connection ended before the command. The message says why, without a subject.

    Attributes:
        began: Whether the program had begun.
    """

    began = False


def run_over(connection: Connection, program: Program, limits: Limits, clock: Callable[[], float]) -> Ran:
    """Run a program; see `running.run`.

    Args:
        connection: An open connection to `COMMAND`.
        program: The program.
        limits: Its limits.
        clock: Seconds from any point.

    Raises:
        Lost: The connection ended before the program, or the program could not begin.
    """
    token = secrets.token_hex(16)
    source = f"{Path(execution.__file__).read_text(encoding='utf-8')}\nmain_in_pod()\n".encode()
    sent = b"%d\n%s%s\n" % (len(source), source, json.dumps(request_of(program, limits, token)).encode())
    for place in range(0, len(sent), _PIECE_BYTES):
        connection.send(sent[place : place + _PIECE_BYTES])
    watched = _Watched(connection, limits, clock)
    try:
        stopped = watched.read()
    except Lost as error:
        error.began = watched.is_ready
        raise
    output, errors = bytes(watched.output).removeprefix(READY), watched.errors.decode(errors="replace")
    has_passed = stopped is None and output.endswith(token.encode())
    output = output.removesuffix(token.encode()) if has_passed else output
    printed = output[: limits.output_bytes].decode(errors="replace")
    return Ran(stopped or outcome_of(watched.code, has_passed, errors), printed, errors)


class _Watched:
    """Reads a connection until the command ends or a limit is reached."""

    def __init__(self, connection: Connection, limits: Limits, clock: Callable[[], float]) -> None:
        self._connection, self._limits, self._clock = connection, limits, clock
        self.output, self.errors, self.code = bytearray(), bytearray(), 0

    @property
    def is_ready(self) -> bool:
        """Whether the program has begun."""
        return self.output.startswith(READY)

    def read(self) -> Outcome | None:
        """Read. Returns the limit that was reached, or None at the end of the command.

        Raises:
            Lost: The connection ended, or the program did not begin.
        """
        until, was_ready = self._clock() + START_SECONDS, False
        while True:
            frame = self._connection.receive(max(0.0, until - self._clock()))
            if frame is None or self._clock() > until:
                if not was_ready:
                    raise Lost(f"did not start the program in {START_SECONDS:.0f} s")
                return "timeout"
            if frame.channel == STATUS:
                self.code = self._code(frame.data)
                return None
            if frame.channel in (STDOUT, STDERR):
                (self.output if frame.channel == STDOUT else self.errors).extend(frame.data)
            if not was_ready and self.is_ready:
                was_ready, until = True, self._clock() + self._limits.seconds
            if self._cut():
                return "output"

    def _cut(self) -> bool:
        """Keep the allowed bytes. Returns whether there were more, of both streams together."""
        most = self._limits.output_bytes
        reported = len(READY) + 32  # the token
        is_over = len(self.output) + len(self.errors) > most + reported
        del self.output[most + reported :]
        del self.errors[most:]
        return is_over

    def _code(self, status: bytes) -> int:
        """The exit code of a Status.

        Raises:
            Lost: The command was not started, or had no end of its own.
        """
        try:
            document: dict[str, Any] = json.loads(status)
            causes = (document.get("details") or {}).get("causes") or ()
            codes = [int(cause["message"]) for cause in causes if cause.get("reason") == "ExitCode"]
        except (ValueError, TypeError, AttributeError, KeyError):
            raise Lost("sent a status that cannot be read") from None
        code = 0 if document.get("status") == "Success" else codes[0] if codes else None
        if code is None or not self.is_ready:
            text = self.errors.decode(errors="replace").strip() or str(document.get("message") or f"exit code {code}")
            raise Lost(f"did not run the program: {text[-500:]}")
        return -(code - _SIGNALS_FROM) if _SIGNALS_FROM < code <= _SIGNALS_FROM + signal.NSIG else code
