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
ANSWERS = Path(__file__).with_name("answers.json")
"""What the program says about each row, by its words."""


@dataclass(frozen=True)
class Hostile:
    """One input.

    Attributes:
        words: The input; no other row has the same words.
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
