"""Reads the fields of rows, and makes the error messages about rows."""

from __future__ import annotations

from typing import Any

from halcyon.data.bad_value import BadValue
from halcyon.data.sources import SourceRow
from halcyon.errors import BadConfiguration

_KINDS = {
    str: "a text",
    bytes: "bytes",
    bool: "a truth value",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
}


def field_value(row: SourceRow, name: str, where: str) -> Any:
    """A field of a row.

    Raises:
        BadConfiguration: The row has no such field, or has no fields at all.
    """
    if not isinstance(row.value, dict):
        raise bad_row(
            row,
            where,
            "has no fields: it is plain text",
            "use a source whose rows have fields, such as jsonl or csv, or the format text",
        )
    try:
        value = row.value[name]
    except KeyError:
        names = ", ".join(list(row.value)[:20])
        raise bad_row(
            row,
            where,
            f"has no field {name!r}" + (f", only {names}" if names else ""),
            "name the field, or fix the row",
        ) from None
    if isinstance(value, BadValue):
        raise bad_row(row, where, f"{value.problem} in the field {name!r}", "fix the row")
    return value


def bad_row(row: SourceRow, where: str, what: str, fix: str) -> BadConfiguration:
    """The error about one row."""
    return BadConfiguration(f"{where}: row {row.number} (counted from 0) of {row.file} {what}; {fix}")


def kind_of(value: object) -> str:
    """Description of a value's type for a message."""
    return "null" if value is None else _KINDS.get(type(value), f"of type {type(value).__name__}")
