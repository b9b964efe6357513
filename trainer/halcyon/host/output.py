"""Standard output and standard error that end no work.

A write raises when the reader of a pipe has left (``| head``), when a disk is full or a terminal is gone. It waits for
ever while a pipe is full and its reader is stopped. Here such a write loses text instead, and never a part of a line.
"""

import contextlib
import io
import os
import select
import stat
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn, TextIO

from halcyon.host.last_resort import end_within

PATIENCE_SECONDS = 1.0
"""Longest wait of a write for its reader. The next ones do not wait until there is room again."""
READER_LEFT = 141
"""Exit code of a command that prints for a reader that has left: that of a program that SIGPIPE ends."""
_UNWINDING_SECONDS = 10.0
"""Longest time in which a command without a reader ends."""


class OutputLost(SystemExit):
    """A command cannot print; the process ends with this code, without the end of the interpreter, which takes long."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


class _Output(io.RawIOBase):
    """A file descriptor whose writes never raise.

    Args:
        descriptor: The file descriptor.
        patience_seconds: Longest wait of a write for room; None: no limit.
        on_loss: Called with the first error of a write.
    """

    def __init__(self, descriptor: int, patience_seconds: float | None, on_loss: Callable[[OSError], object]) -> None:
        self._descriptor, self._patience, self._on_loss = descriptor, patience_seconds, on_loss
        self._lock = threading.RLock()
        self._rest = b""
        """The end of a line that has found no room."""
        self._lost = False

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        size = len(data)
        with self._lock:
            if not self._rest or self._has_room(0):
                self._send(self._rest + bytes(data))
        return size

    def _send(self, rest: bytes) -> None:
        deadline = None if self._patience is None else time.monotonic() + self._patience
        error = None
        while rest and self._has_room(None if deadline is None else max(0.0, deadline - time.monotonic())):
            try:
                # A pipe with room takes so many bytes without a wait.
                rest = rest[os.write(self._descriptor, rest[: select.PIPE_BUF]) :]
            except BlockingIOError:
                continue
            except OSError as failure:
                error = failure
                break
        self._rest = rest[: rest.find(b"\n") + 1] or rest
        if error is not None and not self._lost:
            self._lost = True
            self._on_loss(error)

    def _has_room(self, seconds: float | None) -> bool:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        return bool(poll.poll(None if seconds is None else 1000 * seconds))


def lossy(like: TextIO, descriptor: int, on_loss: Callable[[OSError], object] = lambda error: None) -> TextIO:
    """A stream that writes at once. It loses text if its reader has left or does not read, and never raises.

    Args:
        like: Gives the encoding.
        descriptor: Where it writes. A file descriptor of its own is opened, so that it alone does not wait.
        on_loss: Called with the first error.
    """
    return _text(like, _Output(_own(descriptor), PATIENCE_SECONDS, on_loss))


def guard_streams() -> None:
    """Let a command outlive its readers: what it writes to standard error may get lost, and it ends quietly and at once
    when nobody reads its standard output. Streams that were closed at the start lead to nothing.
    """
    while (nowhere := os.open(os.devnull, os.O_RDWR)) <= 2:  # else the next opened file would get its number
        pass
    os.close(nowhere)
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 - it stays open
            setattr(sys, f"__{name}__", getattr(sys, name))
    if sys.stderr is sys.__stderr__:  # else another program has replaced it
        sys.stderr = lossy(sys.stderr, 2)
    if sys.stdout is sys.__stdout__:
        sys.stdout = _text(sys.stdout, _Output(1, None, _end))


def outlive_reader() -> None:
    """Let a command whose work is worth more than what it prints go on without a reader of its standard output."""
    if isinstance(sys.stdout, io.TextIOWrapper) and isinstance(sys.stdout.buffer, _Output):
        sys.stdout = lossy(sys.stdout, 1, say_lost)


def say_lost(error: OSError) -> None:
    """Write one sentence about a lost standard output."""
    sys.stderr.write(f"standard output is lost ({error.strerror}); the work goes on without it\n")


def _end(error: OSError) -> NoReturn:
    code = READER_LEFT if isinstance(error, BrokenPipeError) else 1
    end_within(_UNWINDING_SECONDS, code)
    if code == 1:
        sys.stderr.write(f"standard output cannot be written: {error.strerror}\n")
    raise OutputLost(code)


def _text(like: TextIO, output: _Output) -> TextIO:
    return io.TextIOWrapper(output, like.encoding, like.errors, write_through=True)  # type: ignore[arg-type]


def _own(descriptor: int) -> int:
    """A file descriptor of the same file, which does not wait if it is a pipe or a terminal.

    It has a file description of its own, because other programs write to the same one.
    """
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        with contextlib.suppress(OSError):
            return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    return os.dup(descriptor)
