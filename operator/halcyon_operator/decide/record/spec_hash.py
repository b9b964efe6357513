"""Decides which edits of a spec need a new attempt.

An attempt is created from one state of the spec, and its objects never change. `status.attemptSpecHash` is the hash of
that state, without the fields that only the operator uses or that can wait for the next attempt: those of class `live`
(`halcyon_api.edits`).

Fields with their default value are left out, so that a newer version of the schema with more fields restarts nothing.
"""

import hashlib
import json
from typing import Any

from pydantic.alias_generators import to_snake

from halcyon_api.base import ApiModel, OneOf
from halcyon_api.edits.classes import EDIT_RULES
from halcyon_api.training_run import TrainingRunSpec

RETIRED = "retired"
"""Replaces the hash of an attempt that is being stopped. It fits no spec."""


def _live() -> dict[str, Any]:
    """The live fields, in the form of pydantic's `exclude`."""
    tree: dict[str, Any] = {}
    for row in EDIT_RULES:
        if row.edit == "live":
            *sections, field = map(to_snake, row.path.split("."))
            node = tree
            for section in sections:
                node = node.setdefault(section, {})
            node[field] = True
    return tree


_NOT_RELEVANT = _live()


def attempt_spec_hash(spec: TrainingRunSpec) -> str:
    """Hash of the state of the spec that an attempt is created from."""
    return hash_of(spec, None, _NOT_RELEVANT)


def hash_of(spec: TrainingRunSpec, include: set[str] | None, exclude: dict[str, Any]) -> str:
    """Hash of a part of a spec: 40 characters. A field with its default counts as absent."""
    document = spec.model_dump(mode="json", by_alias=True, include=include, exclude=exclude, exclude_defaults=True)
    _leave_out_default_kinds(document, spec)
    canonical = json.dumps(
        {key: value for key, value in document.items() if value != {}}, sort_keys=True, separators=(",", ":")
    )
    return hashlib.sha256(canonical.encode()).hexdigest()[:40]


def fits(recorded: str | None, wanted: str) -> bool:
    """Whether an attempt created from the recorded state fits the wanted state."""
    return recorded in (None, wanted)


def _leave_out_default_kinds(document: dict[str, Any], section: ApiModel) -> None:
    """Leave out a choice that equals its default: it means the same as no choice."""
    for name, field in type(section).model_fields.items():
        value, key = getattr(section, name), field.alias or name
        if key not in document or not isinstance(value, ApiModel):
            continue
        if (
            isinstance(value, OneOf)
            and field.default_factory is not None
            and value == field.get_default(call_default_factory=True)
        ):
            del document[key]
        else:
            _leave_out_default_kinds(document[key], value)
