"""A terminal of a given width in which commands run one after the other, as a person sees them."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import termios
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyte
from rich.text import Text

from halcyon_devcluster.waiting import until
from tests.suite.limits import limit

_INTERRUPT, _END = b"\x03", b"\x04"
"""What Ctrl-C and Ctrl-D send."""
_ROWS, _KEPT = 40, 2000
_NAMES = {"brown": "yellow", "brightbrown": "bright_yellow"}


@dataclass
class Command:
    """A command that runs in a terminal."""

    terminal: Terminal
    process: subprocess.Popen[bytes]
    keyboard: int

    def type(self, line: str) -> None:
        """Type a line."""
        os.write(self.keyboard, line.encode() + b"\n")

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        os.write(self.keyboard, _INTERRUPT)

    def end_input(self) -> None:
        """Press Ctrl-D."""
        os.write(self.keyboard, _END)

    def wait(self, words: str, times: int = 1) -> None:
        """Wait until the terminal shows these words."""
        until(
            lambda: self.terminal.text.count(words) >= times or self.process.poll() is not None,
            timeout_seconds=limit(300),
            failure=lambda: f"{words!r} does not come: {self.terminal.text}",
        )
        assert self.terminal.text.count(words) >= times, self.terminal.text


@dataclass
class Terminal:
    """A terminal.

    Attributes:
        columns: Its width.
        folder: Where the commands run.
        environment: Their environment.
    """

    columns: int
    folder: Path
    environment: Mapping[str, str]
    _lock: Any = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._screen = pyte.HistoryScreen(self.columns, _ROWS, history=_KEPT, ratio=0.5)
        self._stream = pyte.ByteStream(self._screen)

    @contextlib.contextmanager
    def running(self, shown: str, words: Sequence[str | Path]) -> Iterator[Command]:
        """Run a command; it must have ended at the end of the context.

        Args:
            shown: The command as a person types it.
            words: The command that runs.
        """
        self._feed(f"$ {shown}\r\n".encode())
        keyboard, screen = pty.openpty()
        termios.tcsetwinsize(screen, (_ROWS, self.columns))
        environment = {name: value for name, value in self.environment.items() if name not in ("COLUMNS", "LINES")}
        environment["TERM"] = "xterm-256color"
        process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", *map(str, words)],
            cwd=self.folder,
            env=environment,
            stdin=screen,
            stdout=screen,
            stderr=screen,
        )
        os.close(screen)
        reader = threading.Thread(target=self._read, args=(keyboard,), daemon=True)
        reader.start()
        try:
            yield Command(self, process, keyboard)
            until(
                lambda: process.poll() is not None,
                timeout_seconds=limit(300),
                failure=lambda: f"{shown} does not end: {self.text}",
            )
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            reader.join(limit(10))
            os.close(keyboard)
        self._feed(b"\r\n")

    @property
    def lines(self) -> list[Text]:
        """All lines, with their colours, without empty ones at the end."""
        with self._lock:
            buffer = [self._screen.buffer[row] for row in range(_ROWS)]
            found = [_text(line, self.columns) for line in (*self._screen.history.top, *buffer)]
        while found and not found[-1].plain.strip():
            found.pop()
        return found

    @property
    def text(self) -> str:
        """What it shows, without colours."""
        return "\n".join(line.plain for line in self.lines)

    def _feed(self, data: bytes) -> None:
        with self._lock:
            self._stream.feed(data)

    def _read(self, keyboard: int) -> None:
        with contextlib.suppress(OSError):  # the last process has closed its side
            while data := os.read(keyboard, 65_536):
                self._feed(data)


def _text(line: Mapping[int, Any], columns: int) -> Text:
    found = Text()
    for column in range(columns):
        sign = line[column]
        style = " ".join(
            [
                *(name for name in ("bold", "reverse") if getattr(sign, name)),
                *([] if sign.fg == "default" else [_colour(sign.fg)]),
            ]
        )
        found.append(sign.data, style or None)
    found.rstrip()
    return found


def _colour(name: str) -> str:
    if len(name) == 6 and all(sign in "0123456789abcdef" for sign in name):
        return f"#{name}"
    return _NAMES.get(name, name.replace("bright", "bright_"))
