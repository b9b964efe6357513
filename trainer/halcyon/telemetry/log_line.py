"""A line of the log: the process that it is of, and its values as JSON.

A float is written with all its digits, and every float32 is a float64. So a loss that is read back has the same bits as
on the device, and two logs can be compared for bitwise equality. Numbers that JSON cannot express are the strings
``"NaN"``, ``"Infinity"``, ``"-Infinity"``.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic.alias_generators import to_camel as _to_camel

to_camel = lru_cache(maxsize=1024)(_to_camel)


@dataclass(frozen=True)
class RunIdentity:
    """The identity of a process: run, attempt, restart and process index."""

    run: str
    attempt: int = 0
    restart: int = 0
    process_index: int = 0


def encode_line(fields: dict[str, Any]) -> str:
    """One event as one line of strict JSON with a line feed at its end."""
    return _encode(plain(fields)) + "\n"


_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def plain(value: Any) -> Any:
    """The value in JSON's own types: names in camelCase, without members that are None, and numbers that JSON cannot
    express as strings.
    """
    if value is None or isinstance(value, str | int):
        return value
    if not isinstance(value, float) and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return (
            value if math.isfinite(value) else "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        )
    if isinstance(value, Mapping):
        return {to_camel(str(name)): plain(member) for name, member in value.items() if member is not None}
    if isinstance(value, Sequence):
        return [plain(member) for member in value]
    return value if isinstance(value, int) else str(value)
