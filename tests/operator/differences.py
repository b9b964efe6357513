"""The difference of two documents, as paths and values: small enough for a person to review, and with everything that
differs.
"""

from __future__ import annotations

from typing import Any


def difference(base: Any, other: Any) -> dict[str, Any]:
    """How a document differs from a base.

    Returns:
        `set`: the value at each path that is new or has another value. `absent`: the paths that only the base has.
            Members of a list are
        found by their name, if all have one. If they do not stand in the order of the base with the new ones at the
        end, `set` has all names, at the path of the list and `[]`.
    """
    found: dict[str, Any] = {"set": {}, "absent": []}
    _compare(base, other, "", found)
    return {kind: paths for kind, paths in found.items() if paths}


def _compare(base: Any, other: Any, path: str, found: dict[str, Any]) -> None:
    named = _named(base) and _named(other)
    if named:
        base, other = _by_name(base), _by_name(other)
        if [*other] != [*(name for name in base if name in other), *(name for name in other if name not in base)]:
            found["set"][f"{path}[]"] = [*other]
    if not (isinstance(base, dict) and isinstance(other, dict)):
        if base != other:
            found["set"][path] = other
        return
    for key in [*base, *(key for key in other if key not in base)]:
        below = f"{path}[{key}]" if named else f"{path}.{key}".lstrip(".")
        if key not in other:
            found["absent"].append(below)
        elif key not in base:
            found["set"][below] = other[key]
        else:
            _compare(base[key], other[key], below, found)


def _named(value: Any) -> bool:
    return (
        isinstance(value, list)
        and all(isinstance(one, dict) and "name" in one for one in value)
        and len(_by_name(value)) == len(value)
    )


def _by_name(value: list[dict[str, Any]]) -> dict[str, Any]:
    return {one["name"]: one for one in value}
