"""What commands write: sentences, JSON and files, and how they report a failure: one sentence on standard error, and an
exit code (default 1).
"""

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from halcyon_api.printable import printable


class Rejected(Exception):
    """The command cannot do its work; the message is one sentence for the user."""


@contextlib.contextmanager
def reporting_errors(code: int = 1) -> Iterator[None]:
    """Turn a Rejected from the block into its sentence on standard error and an exit with `code`."""
    try:
        yield
    except Rejected as refused:
        sys.stderr.write(f"{printable(str(refused))}\n")
        raise typer.Exit(code) from None


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an error of the block about a document into a Rejected that begins with its file."""
    from halcyon.commands.errors import about_file
    from halcyon.host.errors import TrainerExit
    from halcyon_api.base import InvalidRun

    try:
        yield
    except (InvalidRun, TrainerExit) as error:
        raise Rejected(about_file(path, str(error))) from None


def say(sentence: str) -> None:
    """Write a sentence at once, also into a pipe."""
    sys.stdout.write(f"{printable(sentence)}\n")
    sys.stdout.flush()


def write_json(value: Any, *, one_line: bool = False) -> None:
    """Write a value as JSON, on one line where each line is a document of its own."""
    sys.stdout.write(json.dumps(value, indent=None if one_line else 2) + "\n")
    sys.stdout.flush()


def write_file(text: str, path: Path, option: str) -> None:
    """Write a file.

    Raises:
        Rejected: It cannot be written; `option` is the one that names its path.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Rejected(f"{path} cannot be written: {error.strerror}; give {option} another path") from None
