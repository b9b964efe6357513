"""How a command tells what it cannot do: one sentence on standard error, and an exit code, 1 if not said otherwise."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import typer


class Refused(Exception):
    """It cannot be done; the message is one sentence for the user."""


@contextlib.contextmanager
def told(code: int = 1) -> Iterator[None]:
    """Run a command's work in here. The code is for what cannot be done."""
    try:
        yield
    except Refused as refused:
        sys.stderr.write(f"{refused}\n")
        raise typer.Exit(code) from None
