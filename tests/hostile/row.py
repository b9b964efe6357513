"""One hostile input: how a test makes it, and what a user would do with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SECONDS = 10
"""Processor time that a row may use."""
MEMORY_BYTES = 512 * 2**20
"""Memory that a row may use beyond that of a process that has imported the program."""
SIZES = (64 * 2**20, MEMORY_BYTES)
TIMES = (1, SECONDS)
"""Steps in which the page shows memory and time, so that it is the same on each machine."""


@dataclass(frozen=True)
class Hostile:
    """One input.

    Attributes:
        words: The input, as the table names it.
        command: Words of the command after ``halcyon``.
        make: Writes the input into an empty folder.
        changes: Fields of ``run.yaml`` that lead to the input, by path.
        code: The exit code.
    """

    words: str
    command: tuple[str, ...]
    make: Callable[[Path], None]
    code: int
    changes: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def shown(self) -> str:
        """The command as the table shows it. It identifies the row together with `words`."""
        return " ".join(("halcyon", *self.command))
