"""Readers of untrusted data that never raise.

Objects in the cluster may have been written by a newer version, by hand, or with bad intent. Each function here takes
any JSON value and returns a value of the wanted type, or an empty one. So a damaged object can only have less
effect."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import cast

Members = dict[str, object]
"""The members of a JSON object."""
MAX_TEXT = 1024
_MAX_INTEGER = 2**63
_MAX_COUNT = 2**31 - 1
LARGEST_EXACT = 2**53
"""Largest whole number that every JSON reader keeps exactly.

Larger claims are rejected, because no status could hold them.
"""


def value_at(value: object, *path: str | int) -> object:
    """The member at a path of keys and list indices; None if the path does not exist."""
    for part in path:
        if isinstance(value, Mapping):
            value = cast("Mapping[object, object]", value).get(part)
        elif isinstance(value, list) and isinstance(part, int):
            members = cast("list[object]", value)
            value = members[part] if -len(members) <= part < len(members) else None
        else:
            return None
    return value


def mapping(value: object) -> Members:
    """The members of an object with string keys; empty for any other value."""
    if not isinstance(value, Mapping):
        return {}
    return {key: member for key, member in cast("Mapping[object, object]", value).items() if isinstance(key, str)}


def sequence(value: object) -> tuple[object, ...]:
    """The members of a list; empty for any other value."""
    return tuple(cast("list[object]", value)) if isinstance(value, list) else ()


def mappings(value: object) -> tuple[Members, ...]:
    """The members of a list, each as an object; empty for any other value."""
    return tuple(map(mapping, sequence(value)))


def conditions_of(status: object) -> dict[str, Members]:
    """The conditions of a status, by type."""
    return {text(condition.get("type")): condition for condition in mappings(value_at(status, "conditions"))}


def holds(condition: Mapping[str, object]) -> bool:
    """Whether a condition is true."""
    return condition.get("status") == "True"


def text(value: object, limit: int = MAX_TEXT) -> str:
    """A string without control characters, cut to a limit; empty for any other value."""
    if not isinstance(value, str):
        return ""
    begin = value[: 4 * limit]
    if not begin.isprintable():
        begin = "".join(character if character.isprintable() else " " for character in begin)
    return begin.strip()[:limit]


def integer(value: object) -> int | None:
    """A 64-bit integer, also if it is written as a string (as in labels); None for any other value."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        if not (0 < len(value) <= 20 and value.isascii() and value.lstrip("-").isdigit() and value.count("-") <= 1):
            return None
        try:
            value = int(value)
        except ValueError:
            return None
    return value if isinstance(value, int) and -_MAX_INTEGER <= value < _MAX_INTEGER else None


def count(value: object) -> int:
    """A count from 0 to the largest 32-bit integer; 0 for any other value."""
    number = integer(value)
    return min(number, _MAX_COUNT) if number is not None and number > 0 else 0


def moment(value: object) -> datetime | None:
    """A point in time from RFC 3339, in UTC; None for any other value.

    Years before 2000 or after 2200 count as damage.
    """
    if not isinstance(value, str) or len(value) > 40:
        return None
    try:
        parsed = datetime.fromisoformat(value)
        utc = (parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return utc if 2000 <= utc.year <= 2200 else None


def stamp(value: datetime) -> str:
    """RFC 3339 in UTC with whole seconds, as Kubernetes writes times."""
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def precise_stamp(value: datetime) -> str:
    """RFC 3339 in UTC with milliseconds."""
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds_between(start: str | None, end: str | datetime | None) -> float:
    """Seconds from one point to another; 0 if one is missing or the order is wrong."""
    first = moment(start)
    last = end if isinstance(end, datetime) else moment(end)
    return max(0.0, (last - first).total_seconds()) if first and last else 0.0
