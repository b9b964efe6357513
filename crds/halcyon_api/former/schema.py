"""The former fields in the CRD. They have no defaults, so that a former place contains only values that a user wrote."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, cast

from halcyon_api.former.table import FORMER, MovedField

Schema = dict[str, Any]

FORMER_PLACE = "Former place of "
"""Beginning of the description of a former field."""


def add_former(spec: Schema, table: Sequence[MovedField] = FORMER) -> None:
    """Add the properties of the former fields to the schema of ``spec``, if it has their present places.

    The default of a moved choice among kinds is removed. Otherwise the API server would fill in the default kind in an object that has the
    choice in its former place, and a document that moves another kind would then have two. `with_choices` fills in the default when the
    object is read.

    Args:
        spec: The schema, which is changed.
        table: The fields that have moved.
    """
    for row in table:
        present = _property(spec, row.present)
        if present is not None and isinstance(present.get("default"), dict):
            _leave_out_default(spec, row.present)
        *sections, last = row.former.split(".")
        section = _property(spec, ".".join(sections)) if sections else spec
        if present is not None and section is not None:
            section["properties"][last] = _former(present, row.present, row.kinds)


def _leave_out_default(spec: Schema, path: str) -> None:
    *sections, last = path.split(".")
    section = spec
    for depth, name in enumerate(sections):
        section = section["properties"][name]
        inner: Any = section.get("default")
        for below in sections[depth + 1 :]:
            inner = cast("Schema", inner).get(below) if isinstance(inner, dict) else None
        if isinstance(inner, dict):
            cast("Schema", inner).pop(last, None)
    del section["properties"][last]["default"]


def _property(node: Schema, path: str) -> Schema | None:
    found: Schema | None = node
    for part in path.split("."):
        found = found.get("properties", {}).get(part) if found is not None else None
    return found


def _former(present: Schema, path: str, kinds: Sequence[str] | None = None) -> Schema:
    """The schema of a field for its former place. Requirements and rules of a section apply only in the present place."""
    found = {key: copy.deepcopy(value) for key, value in present.items() if key not in ("default", "required", "x-kubernetes-validations")}
    found["description"] = f"{FORMER_PLACE}`{path}`; write `{path}`."
    if "properties" in found:
        found["properties"] = {
            name: _former(child, f"{path}.{name}") for name, child in found["properties"].items() if kinds is None or name in kinds
        }
    return found
