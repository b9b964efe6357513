"""The JSON merge patch (RFC 7396) from one document to another. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast


def merge_patch(old: Mapping[str, object], new: Mapping[str, object]) -> dict[str, Any]:
    """The smallest patch from `old` to `new`: members that differ, null for removed members.

    A list that differs is sent whole.
    """
    patch: dict[str, Any] = dict.fromkeys(key for key in old if key not in new)
    for key, value in new.items():
        before = old.get(key)
        if key in old and before == value and type(before) is type(value):
            continue
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            patch[key] = merge_patch(cast("Mapping[str, object]", before), cast("Mapping[str, object]", value))
        else:
            patch[key] = value
    return patch
