"""The fields in which the documents of several runs differ. Pure: takes values, returns rich renderables."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from halcyon.commands.views.tables import FittedTable
from halcyon_api.edits.changes import shown
from halcyon_api.printable import one_line

_LEFT_OUT = ("data", "spec.from")
"""Sections of a checkpoint about the contents of the data, and about the run that this one began from."""


def differing_fields(documents: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Any, ...]]:
    """The fields that decide numbers and differ between runs, with the value of each run; None: not set.

    Args:
        documents: The sections of each run's document (`Fingerprints.documents`).
    """
    every = [dict(_leaves({name: one[name] for name in one if name not in _LEFT_OUT}, "")) for one in documents]
    paths = sorted({path for one in every for path in one})
    rows = {path: tuple(one.get(path) for one in every) for path in paths}
    return {path: values for path, values in rows.items() if any(value != values[0] for value in values)}


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name in value:
            yield from _leaves(value[name], f"{path}.{name}" if path else name)
    elif isinstance(value, list) and any(isinstance(one, Mapping) for one in value):
        for number, one in enumerate(value):
            yield from _leaves(one, f"{path}[{number}]")
    else:
        yield path, value


def documents_view(labels: Sequence[str], documents: Sequence[Mapping[str, Any]]) -> Iterator[RenderableType]:
    """What differs between the documents of runs, and which runs have none. Arguments: see `differing_view`."""
    known = [label for label, one in zip(labels, documents, strict=True) if one]
    fields = differing_fields([one for one in documents if one])
    if fields:
        yield differing_view(known, fields)
    elif len(known) > 1:
        yield _cell(f"no field differs in the documents of {', '.join(known)}; contents of data are not compared")
    for label, one in zip(labels, documents, strict=True):
        if not one:
            yield _cell(f"{label}: no checkpoint has recorded its document, so its fields are not compared")


def differing_view(labels: Sequence[str], fields: Mapping[str, Sequence[Any]]) -> FittedTable:
    """A table of these fields, one column for each run."""
    table = FittedTable("differing field", *labels)
    for path, values in fields.items():
        table.add_row(*map(_cell, (path, *map(shown, values))))
    return table


def _cell(text: str) -> Text:
    """A text of a root, which may be that of a stranger: without signs that would change the terminal."""
    return Text(one_line(text))
