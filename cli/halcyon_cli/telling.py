"""How a command tells what it cannot do: one sentence on standard error, and exit code 1."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import typer


class Refused(Exception):
    """It cannot be done; the message is one sentence for the user."""


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Run a command's work in here."""
    try:
        yield
    except Refused as refused:
        sys.stderr.write(f"{refused}\n")
        raise typer.Exit(1) from None
