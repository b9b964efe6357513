"""Parses JSON that is not strict in fields that no format may read: NaN, Infinity, half surrogate pairs, bytes that are
not UTF-8.

`orjson` is fast and strict. Other programs write such values: Python's `json` writes NaN, and JavaScript cuts a text
inside an emoji. A row whose text is fine is then not lost: only the field with the value becomes a `BadValue`, which is
an error when the field is read.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import orjson

from halcyon.data.forms.form import BadValue


def loads(text: bytes | memoryview) -> Any:
    """Parse JSON; members of the outermost object that are not strict JSON become `BadValue`.

    Raises:
        orjson.JSONDecodeError: It is not JSON.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as strict:
        try:
            value = json.loads(bytes(text).decode(errors="surrogateescape"))
        except (ValueError, RecursionError):
            raise strict from None
        if not isinstance(value, dict):
            raise
        return {name: member if (bad := problem(member)) is None else BadValue(bad) for name, member in value.items()}


def problem(value: Any) -> str | None:
    """What is wrong with a value that strict JSON does not have; None: nothing."""
    if isinstance(value, str):
        return None if value.isascii() else _problem_of_text(value)
    if isinstance(value, float):
        return None if math.isfinite(value) else "has NaN or Infinity, which JSON does not have,"
    if isinstance(value, Mapping):
        return next((bad for item in value.items() for member in item if (bad := problem(member)) is not None), None)
    if isinstance(value, list):
        return next((bad for member in value if (bad := problem(member)) is not None), None)
    return None


def _problem_of_text(text: str) -> str | None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        # `surrogateescape` decodes the byte 0xNN to U+DCNN.
        return "is not UTF-8" if 0xDC80 <= ord(text[error.start]) <= 0xDCFF else "has half a surrogate pair"
    return None
