"""The terminal of a command: whether it shows more than ASCII, and a line for what takes long."""

import io
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from halcyon_api.printable import printable

COMPILING_MODEL = "compiling the model (about a minute)"


def match_terminal() -> None:
    """Write only ASCII to a terminal whose locale has no UTF-8. Call it before `replace_unencodable`.

    Python writes UTF-8 there, because it takes the locale C for a mistake.
    """
    if shows_utf8(os.environ):
        return
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.isatty():
            stream.reconfigure(encoding="ascii")


def shows_utf8(environ: Mapping[str, str]) -> bool:
    """Whether the locale of these variables has UTF-8, or none is named.

    Python sets LC_CTYPE to C.UTF-8 where LANG is C, so this value says nothing.
    """
    names = [environ.get("LC_ALL"), environ.get("LC_CTYPE"), environ.get("LANG")]
    if names[1] == "C.UTF-8" and names[2] in ("C", "POSIX"):
        names[1] = None
    named = next((name for name in names if name), None)
    return named is None or "utf" in named.lower()


def say(sentence: str) -> None:
    """Write a sentence to standard error."""
    sys.stderr.write(f"{printable(sentence)}\n")
    sys.stderr.flush()


@contextmanager
def each_minute(sentence: Callable[[], str], seconds: float = 60.0) -> Iterator[None]:
    """Write what a long command does to standard error, each minute until the end of the block.

    Args:
        sentence: Gives what it does now.
        seconds: The time between two lines.
    """
    ended = threading.Event()

    def write() -> None:
        while not ended.wait(seconds):
            sys.stderr.write(f"{sentence()}\n")
            sys.stderr.flush()

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def waiting(what: str) -> Iterator[Callable[[], None]]:
    """Show on standard error what the user waits for: in a terminal a line with the elapsed time, which disappears at
    the end; elsewhere a plain line.

    Yields:
        Called when the wait is over, once or more often; the end of the block does so too.
    """
    if not sys.stderr.isatty():
        sys.stderr.write(f"{what}\n")
        sys.stderr.flush()
        yield lambda: None
        return
    columns = SpinnerColumn("line"), TextColumn("{task.description}"), TimeElapsedColumn()
    shown = Progress(*columns, console=Console(stderr=True), transient=True)
    shown.add_task(what, total=None)
    with shown:
        yield shown.stop
