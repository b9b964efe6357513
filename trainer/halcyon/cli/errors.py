"""How a command reports what the user can fix: one sentence on standard error, and the exit code that belongs to it."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from halcyon.errors import TrainerExit
from halcyon_api.exit_codes import ExitCode

if TYPE_CHECKING:
    from rich.console import Console

_WIDE = 200
"""Columns of a line where there is no terminal."""


@contextmanager
def report_errors(about: object = "", *, interrupted: str = "stopped") -> Iterator[None]:
    """Run a command's work in here.

    Args:
        about: What the sentence is about, such as the document; stands before it.
        interrupted: What is said after an interrupt from the keyboard.
    """
    try:
        yield
    except TrainerExit as error:
        sys.stderr.write(f"{about_file(about, str(error))}\n")
        raise typer.Exit(error.exit_code) from None
    except BrokenPipeError:
        raise  # the reader, such as `head`, has enough
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sys.stderr.write(f"{where}{error.strerror or error}\n")
        raise typer.Exit(ExitCode.FAILURE) from None
    except MemoryError:
        sys.stderr.write("this machine has too little memory for it\n")
        raise typer.Exit(ExitCode.FAILURE) from None
    except KeyboardInterrupt:
        sys.stderr.write(f"{interrupted}\n")
        raise typer.Exit(ExitCode.FAILURE) from None


def about_file(file: object, sentence: str) -> str:
    """A sentence with the file that it is about before it, if it does not begin with it anyway."""
    return sentence if not file or sentence.startswith(f"{file}:") else f"{file}: {sentence}"


def write_anything() -> None:
    """Let standard output take any text: where the locale has no sign for a letter, a question mark stands in its place."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def console() -> Console:
    """A console as wide as the terminal, and wide enough for whole names where the output goes elsewhere."""
    from rich.console import Console

    found = Console()
    return found if found.is_terminal else Console(width=max(found.width, _WIDE))
