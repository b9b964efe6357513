"""One bad input: how a test makes it, and the exit code that must follow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.document_changes import changed
from tests.families import llama

FOLDER = "/home/ada"
"""The table shows this in place of the folder in which a test made the mistake."""

RUN: dict[str, Any] = {
    "apiVersion": "halcyon.dev/v1alpha1",
    "kind": "TrainingRun",
    "metadata": {"name": "notes"},
    "spec": {
        "accelerator": {"type": "cpu"},
        "model": llama(2, 32, 64, 4),
        "data": {"sources": [{"name": "notes", "text": {"paths": [f"{FOLDER}/notes"]}}]},
        "trainer": {"steps": 10, "batchSize": 4, "sequenceLength": 32},
        "checkpoint": {"root": f"file://{FOLDER}/root"},
    },
}
"""A valid run on three text files."""

Changes = Mapping[str, Any]
"""Fields of the run by path, such as ``spec.trainer.steps``; the value ``...`` removes a field."""


@dataclass(frozen=True)
class Mistake:
    """One mistake, or one hostile input.

    Attributes:
        words: The mistake, as the table names it.
        command: Words of the command after ``halcyon``.
        code: The exit code.
        changes: The wrong fields of ``run.yaml``.
        text: The whole text of ``run.yaml``, instead of ``changes``.
        files: Further files, by name.
        trained: Changes of a run that trains in the folder first; None: the folder is empty.
        make: Writes a hostile input into the folder.
    """

    words: str
    command: tuple[str, ...]
    code: int
    changes: Changes = field(default_factory=dict[str, Any])
    text: str | bytes | None = None
    files: Mapping[str, str | bytes] = field(default_factory=dict[str, "str | bytes"])
    trained: Changes | None = None
    make: Callable[[Path], None] | None = None

    @property
    def slow(self) -> bool:
        """Whether the row needs separate processes."""
        return self.command[0] == "train" or self.trained is not None

    @property
    def shown(self) -> str:
        """The command as the table shows it. It identifies the row together with `words`."""
        return " ".join(("halcyon", *self.command))


def document(changes: Changes) -> dict[str, Any]:
    """The run with changes."""
    return changed(RUN, changes)
