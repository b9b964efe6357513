"""Numbers of a status as a person reads them. Pure.

Sums that go on (times by cause, spending) are not rounded here: a rounded sum would lose what is added to it.
"""

from typing import Any, cast

from halcyon_api.base import ApiModel

DIGITS = 5
"""Significant digits. The trainer's log and its metrics have all."""


def readable(value: Any) -> Any:
    """A value of a status with `DIGITS` significant digits in each fraction of all its parts."""
    result: object = value
    if isinstance(value, float):
        result = float(f"{value:.{DIGITS}g}")
    elif isinstance(value, ApiModel):
        result = value.but(**{name: readable(part) for name, part in value})
    elif isinstance(value, dict):
        result = {name: readable(part) for name, part in cast("dict[str, object]", value).items()}
    elif isinstance(value, list):
        result = [readable(part) for part in cast("list[object]", value)]
    return result
