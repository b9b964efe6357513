"""How a command tells what the user can mend: one sentence on standard error, and the exit code that belongs to it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from halcyon.errors import TrainerExit
from halcyon_api.exit_codes import ExitCode


@contextmanager
def told(about: object = "", *, interrupted: str = "stopped") -> Iterator[None]:
    """Run a command's work in here.

    Args:
        about: What the sentence is about, such as the document; stands before it.
        interrupted: What is said after an interrupt from the keyboard.
    """
    try:
        yield
    except TrainerExit as error:
        sys.stderr.write(f"{about}: {error}\n" if about else f"{error}\n")
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        sys.stderr.write(f"{interrupted}\n")
        raise typer.Exit(ExitCode.FAILURE) from None
