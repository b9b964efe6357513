"""How a command reports a failure: one sentence on standard error, and an exit code (default 1)."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import typer


class Rejected(Exception):
    """The command cannot do its work; the message is one sentence for the user."""


@contextlib.contextmanager
def reporting_errors(code: int = 1) -> Iterator[None]:
    """Turn a Rejected from the block into its sentence on standard error and an exit with `code`."""
    try:
        yield
    except Rejected as refused:
        sys.stderr.write(f"{refused}\n")
        raise typer.Exit(code) from None
