"""A mistake, and how it is made."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

FOLDER = "/home/ada"
"""What the table shows in place of the folder in which a mistake was made."""

RUN: dict[str, Any] = {
    "apiVersion": "halcyon.dev/v1alpha1",
    "kind": "TrainingRun",
    "metadata": {"name": "notes"},
    "spec": {
        "accelerator": {"type": "cpu"},
        "model": {"llama": {"layers": 2, "hiddenSize": 32, "intermediateSize": 64, "heads": 4}},
        "data": {"sources": [{"name": "notes", "text": {"paths": [f"{FOLDER}/notes"]}}]},
        "trainer": {"steps": 10, "batchSize": 4, "sequenceLength": 32},
        "checkpoint": {"root": f"file://{FOLDER}/root"},
    },
}
"""A valid run of three text files."""

Changes = Mapping[str, Any]
"""Fields of the run by their paths, such as ``spec.trainer.steps``; the value ``...`` takes a field out."""


@dataclass(frozen=True)
class Row:
    """One mistake.

    Attributes:
        words: What the user does, for the table.
        command: Words of the command after ``halcyon``.
        code: The exit code.
        changes: What is wrong in ``run.yaml``.
        text: The whole text of ``run.yaml``, in place of a changed document.
        files: Further files, by name.
        trained: A run that trains before, in place of an empty folder: what differs in it from ``run.yaml``.
    """

    words: str
    command: tuple[str, ...]
    code: int
    changes: Changes = field(default_factory=dict[str, Any])
    text: str | bytes | None = None
    files: Mapping[str, str | bytes] = field(default_factory=dict[str, "str | bytes"])
    trained: Changes | None = None

    @property
    def slow(self) -> bool:
        """Whether it needs processes of its own."""
        return self.command[0] == "train" or self.trained is not None

    @property
    def shown(self) -> str:
        """The command as the table has it, which tells the row from all others together with its words."""
        return " ".join(("halcyon", *self.command))


def document(changes: Changes) -> dict[str, Any]:
    """The run with changes."""
    found = copy.deepcopy(RUN)
    for path, value in changes.items():
        *parents, last = path.split(".")
        node = found
        for part in parents:
            node = node.setdefault(part, {})
        if value is ...:
            del node[last]
        else:
            node[last] = value
    return found
