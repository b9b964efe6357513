"""Decides which edits of a spec need a new attempt.

An attempt is created from one state of the spec, and its objects never change. `status.attemptSpecHash` is the hash of that state, without
the fields that only the operator uses or that can wait for the next attempt: those of class `live` (`halcyon_api.edits`).

Fields with their default value are left out, so that a newer version of the schema with more fields restarts nothing.

A hash begins with its scheme. Scheme 1 is that of the previous release: the spec in its former form (`halcyon_api.former`). A run with a
recorded hash of scheme 1 is compared by that scheme. So an upgrade restarts nothing, and an edit after the upgrade is detected.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic.alias_generators import to_snake

from halcyon_api.base import ApiModel, OneOf
from halcyon_api.edits.classes import EDIT_RULES
from halcyon_api.former.reading import former_form
from halcyon_api.former.table import FORMER
from halcyon_api.spec.evaluation import EVALUATION_BATCHES
from halcyon_api.spec.objective import next_token
from halcyon_api.training_run import TrainingRunSpec

_SCHEME = "2-"
"""Version of the hash."""
_MOVED_LATER = tuple(row for row in FORMER if row.present == "trainer.remat")
"""Fields that have moved since scheme 2: its hashes have them in their former places."""
_FORMER_SCHEME = "1-"
"""Version of the hash in the previous release."""

RETIRED = "1-retired"
"""Replaces the hash of an attempt that is being stopped. It matches no spec, in any version of the hash."""


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


def attempt_spec_hash(spec: TrainingRunSpec, recorded: str | None = None) -> str:
    """Hash of the state of the spec that an attempt is created from.

    Args:
        spec: The spec.
        recorded: A hash to compare with. The new hash has the same scheme, if that scheme is known.
    """
    document = spec.model_dump(mode="json", by_alias=True, exclude=_NOT_RELEVANT, exclude_defaults=True)
    _leave_out_former_default(document, spec)
    if recorded is not None and recorded != RETIRED and recorded.startswith(_FORMER_SCHEME):
        if spec.objective == next_token():
            document.pop("objective", None)  # scheme 1 does not have this field
        return _FORMER_SCHEME + _digest(former_form(document))
    _leave_out_default_kinds(document, spec)
    return _SCHEME + _digest(former_form(document, _MOVED_LATER))


def fits(recorded: str | None, wanted: str) -> bool:
    """Whether an attempt created from the recorded state fits the wanted state.

    A hash of an unknown scheme cannot be compared, and counts as fitting.
    """
    return recorded is None or recorded == wanted or not recorded.startswith((_SCHEME, _FORMER_SCHEME))


def _digest(document: dict[str, Any]) -> str:
    canonical = json.dumps({key: value for key, value in document.items() if value != {}}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:40]


def _leave_out_former_default(document: dict[str, Any], spec: TrainingRunSpec) -> None:
    """Leave out a value that was the default of an earlier schema: stored objects contain it, and it means the same as no value now."""
    if spec.task != "evaluate" and spec.trainer.evaluation.batches == EVALUATION_BATCHES:
        evaluation = document["trainer"]["evaluation"]
        del evaluation["batches"]
        if not evaluation:
            del document["trainer"]["evaluation"]


def _leave_out_default_kinds(document: dict[str, Any], section: ApiModel) -> None:
    """Leave out a choice that equals its default: it means the same as no choice."""
    for name, field in type(section).model_fields.items():
        value, key = getattr(section, name), field.alias or name
        if key not in document or not isinstance(value, ApiModel):
            continue
        if isinstance(value, OneOf) and field.default_factory is not None and value == field.get_default(call_default_factory=True):
            del document[key]
        else:
            _leave_out_default_kinds(document[key], value)
