"""Errors that the user can fix: one sentence on standard error, and the exit code of the error."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from halcyon.errors import NoValidCheckpoint, RootUnusable, TrainerExit
from halcyon_api.ends import ExitCode

if TYPE_CHECKING:
    from rich.console import Console

_WIDE = 200
"""Smallest width of the output in columns, if it does not go to a terminal."""


@contextmanager
def report_errors(about: object = "", *, interrupted: str = "stopped") -> Iterator[None]:
    """Run a command's work in this context: an error that the user can fix is printed, and the process exits with its
    code.

    Args:
        about: Printed before the sentence, such as the path of the document.
        interrupted: The sentence after an interrupt from the keyboard.
    """
    try:
        yield
    except TrainerExit as error:
        sys.stderr.write(f"{about_file(about, str(error))}\n")
        raise typer.Exit(error.exit_code) from None
    except BrokenPipeError:
        raise  # the reader, such as `head`, has closed the pipe
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sys.stderr.write(f"{where}{error.strerror or error}\n")
        raise typer.Exit(ExitCode.FAILURE) from None
    except MemoryError:
        sys.stderr.write("this machine has too little memory for this command\n")
        raise typer.Exit(ExitCode.FAILURE) from None
    except KeyboardInterrupt:
        sys.stderr.write(f"{interrupted}\n")
        raise typer.Exit(ExitCode.FAILURE) from None


@contextmanager
def report_root_errors(what: str = "the root") -> Iterator[None]:
    """As `report_errors`, and for errors of stores and checkpoints too.

    Args:
        what: The store in the sentence about one that does not answer.
    """
    from halcyon.checkpoint.verify import Damaged
    from halcyon.storage.failures import StoreFailure
    from halcyon_api.checkpoint_documents import DamagedDocument

    with report_errors():
        try:
            yield
        except StoreFailure as failure:
            raise RootUnusable(f"{what} does not answer: {failure}") from None
        except DamagedDocument as damage:
            raise NoValidCheckpoint(
                f"{damage}; start the run again, which rebuilds HEAD from the checkpoints, or restore it"
            ) from None
        except Damaged as damage:
            raise NoValidCheckpoint(str(damage)) from None


def about_file(file: object, sentence: str) -> str:
    """The sentence with the file's name before it, unless it already begins with that name."""
    return sentence if not file or sentence.startswith(f"{file}:") else f"{file}: {sentence}"


def replace_unencodable() -> None:
    """Let standard output and standard error take any text: a character that the locale cannot encode becomes a
    question mark.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def console() -> Console:
    """A console as wide as the terminal; without a terminal, wide enough for names in full length."""
    from rich.console import Console

    found = Console()
    return found if found.is_terminal else Console(width=max(found.width, _WIDE))
