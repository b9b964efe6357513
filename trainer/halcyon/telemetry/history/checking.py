"""Checks the rows of a segment: a root of a stranger may have anything where a time or a step should be. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

_LATEST = 253_402_300_799
"""The last second of the year 9999, after which no calendar of the library goes."""
_MOST_STEP = 2**53
_MOST_NAME = 200
_SPECIAL = ("NaN", "Infinity", "-Infinity")
"""Numbers that JSON cannot express."""


def wrong_field(row: Any, kinds: Mapping[str, str]) -> str | None:
    """The name of a field that is missing or has a wrong type; None: there is none.

    Args:
        row: A row.
        kinds: What fields of some names must be, if the row has them; a name that ends with ! must be there.
    """
    if not isinstance(row, dict):
        return "a row"
    for name, kind in kinds.items():
        field = name.removesuffix("!")
        if field in row and not _KINDS[kind](row[field]):
            return field
        if field not in row and field != name:
            return field
    return None


def _is_number(value: Any) -> bool:
    return (
        value in _SPECIAL if isinstance(value, str) else isinstance(value, (int, float)) and not isinstance(value, bool)
    )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_STEP


_KINDS: Mapping[str, Callable[[Any], bool]] = {
    "count": _is_count,
    "number": _is_number,
    "time": lambda value: (
        _is_number(value) and not isinstance(value, str) and math.isfinite(value) and 0 <= value <= _LATEST
    ),
    "name": lambda value: isinstance(value, str) and len(value) <= _MOST_NAME and (value.isprintable() or not value),
    "text": lambda value: isinstance(value, str),
    "seconds": lambda value: (
        isinstance(value, dict)
        and all(_is_count(one) or (_is_number(one) and one not in _SPECIAL) for one in value.values())
    ),
}
GROUP = {
    "number!": "count", "attempt!": "count", "restart!": "count", "writer!": "name", "resumedStep!": "count",
    "began!": "time",
    "run!": "name", "steps!": "count",
}  # fmt: skip
"""Fields of a process group."""
ROW = {
    "event!": "name", "time!": "time", "step": "count", "toStep": "count", "seconds": "number", "source": "name",
    "tag": "name",
    "task": "name", "cause": "name", "message": "text", "loss": "number", "bitsPerByte": "number",
    "gradientNorm": "number",
    "learningRate": "number", "tokensPerSecond": "number", "accuracy": "number", "standardError": "number",
    "centred": "number",
}  # fmt: skip
"""Fields of a row."""
NEEDED: Mapping[str, Mapping[str, str]] = {
    "step": {"step!": "count"},
    "evaluation": {"step!": "count"},
    "task": {"step!": "count", "task!": "name"},
    "rolledBack": {"step!": "count", "toStep!": "count"},
    "goodput": {"step!": "count", "seconds!": "seconds"},
}
"""Further fields of some kinds of rows."""


def wrong_row(row: Any) -> str | None:
    """The name of a field of a row that is missing or has a wrong type; None: there is none."""
    event = row.get("event") if isinstance(row, dict) else None
    more = NEEDED.get(event, {}) if isinstance(event, str) else {}
    return wrong_field(row, {**{name: kind for name, kind in ROW.items() if f"{name}!" not in more}, **more})
