"""Converts a document to its present form: moves the value of a former field to the field's present place. Pure.

The API server fills defaults into the present place of an object that uses the former one. So a default value in the present place counts
as not set. Any other value that differs from that in the former place is a contradiction, which only the user can resolve.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

from pydantic.fields import FieldInfo

from halcyon_api.base import ApiModel, OneOf
from halcyon_api.edits.classes import class_of, section_of
from halcyon_api.former.table import FORMER, MovedField

_ABSENT: Any = object()


@dataclass(frozen=True)
class PresentForm:
    """A spec in its present form, and the fields that were found in former places."""

    spec: Any
    found: tuple[MovedField, ...] = ()
    contradictions: tuple[str, ...] = ()
    """One sentence for each field that has different values in both places. Its former field is still in `spec`."""


def present_form(spec: Any, model: type[ApiModel], table: Sequence[MovedField] = FORMER) -> PresentForm:
    """Move the values of former fields to their present places.

    Args:
        spec: ``spec`` of a document, as it was read. It is not changed. A value that is not an object is returned as it is.
        model: The class of ``spec``. Rows whose present place it does not have are ignored.
        table: The fields that have moved.
    """
    rows = [row for row in table if field_at(model, row.present) is not None and _at(spec, row.former) is not _ABSENT]
    if not rows:
        return PresentForm(spec)
    whole = copy.deepcopy(spec)
    found: list[MovedField] = []
    contradictions: list[str] = []
    for row in rows:
        value, present = _at(whole, row.former), _at(whole, row.present)
        field = cast("FieldInfo", field_at(model, row.present))
        if value is not None:  # the API server treats null as absent
            found.append(row)
            if present is not _ABSENT and is_free(row) and value == _default(field):
                value = present
            try:
                _put(whole, row.present, _joined(value, present, field))
            except _Contradiction:
                sentence = f"spec.{row.former}: it has moved to spec.{row.present}, and the two differ; take spec.{row.former} out"
                contradictions.append(sentence)
                continue
        _remove(whole, row.former)
    return PresentForm(whole, tuple(found), tuple(contradictions))


def is_free(row: MovedField) -> bool:
    """Whether a run may change the field.

    A default in its former place counts as not set if the present place is set: an earlier API server may have filled it in, and a user
    who changes the field later does not know of it.
    """
    return class_of(row.present) != "frozen"


def with_choices(spec: Any, model: type[ApiModel], table: Sequence[MovedField] = FORMER) -> Any:
    """A spec with the default of each moved choice among kinds that is not set. The API server fills in no default there.

    Args:
        spec: ``spec`` of a document in its present form. It is not changed.
        model: The class of ``spec``.
        table: The fields that have moved.
    """
    found = spec
    for row in table:
        field = field_at(model, row.present)
        default = _default(field) if field is not None else _ABSENT
        section = _at(found, row.present.rpartition(".")[0])
        if isinstance(default, dict) and isinstance(section, dict) and _at(found, row.present) in (_ABSENT, None):
            found = copy.deepcopy(found)
            _put(found, row.present, default)
    return found


def former_form(spec: dict[str, Any], table: Sequence[MovedField] = FORMER) -> dict[str, Any]:
    """A spec with all moved fields in their former places, as the previous release wrote it.

    A field that had a place in several sections goes to the one that the spec has.

    Args:
        spec: ``spec`` of a document in its present form. It is not changed.
        table: The fields that have moved.
    """
    found = copy.deepcopy(spec)
    for row in table:
        value = _at(found, row.present)
        several = [one.present for one in table].count(row.present) > 1
        if value is not _ABSENT and (not several or _at(found, row.former.rpartition(".")[0]) is not _ABSENT):
            _remove(found, row.present)
            _put(found, row.former, value)
    return found


def field_at(model: type[ApiModel], path: str) -> FieldInfo | None:
    """The field at a path of a class; None if it does not exist."""
    *sections, last = path.split(".")
    node: type[ApiModel] | None = model
    for section in sections:
        info = _named(node, section) if node is not None else None
        node = section_of(info.annotation) if info is not None else None
    return _named(node, last) if node is not None else None


class _Contradiction(Exception):
    """Both places are set, to different values."""


def _joined(former: Any, present: Any, field: FieldInfo) -> Any:
    """The value of a field that may be set in both places.

    A section is merged member by member: after a user has moved the fields of the document, members that the API server filled in earlier
    are still in the former place.
    """
    if former == {}:
        return {} if present is _ABSENT else present
    if present is _ABSENT or present is None or present in (former, _default(field)):
        return former
    section = section_of(field.annotation)
    if section is None or not isinstance(former, dict) or not isinstance(present, dict):
        raise _Contradiction
    return _members_joined(cast("dict[str, Any]", former), cast("dict[str, Any]", present), section)


def _members_joined(former: dict[str, Any], present: dict[str, Any], section: type[ApiModel]) -> dict[str, Any]:
    whole = dict(present)
    for name, value in former.items():
        info = _named(section, name)
        if name not in present and issubclass(section, OneOf):
            raise _Contradiction  # two kinds
        whole[name] = value if info is None else _joined(value, present.get(name, _ABSENT), info)
    return whole


def _default(field: FieldInfo) -> Any:
    """The default that the API server fills in; `_ABSENT`, which no document value equals, if it fills in none."""
    value: Any = None if field.is_required() else field.get_default(call_default_factory=True)
    return value.document() if isinstance(value, ApiModel) else _ABSENT if value is None else value


def _named(model: type[ApiModel], name: str) -> FieldInfo | None:
    return _fields_by_name(model).get(name)


@cache
def _fields_by_name(model: type[ApiModel]) -> dict[str, FieldInfo]:
    return {info.alias or key: info for key, info in model.model_fields.items()}


def _at(document: Any, path: str) -> Any:
    node: Any = document
    for part in path.split("."):
        if not isinstance(node, dict) or part not in node:
            return _ABSENT
        node = cast("dict[str, Any]", node)[part]
    return node


def _put(document: dict[str, Any], path: str, value: Any) -> None:
    *sections, last = path.split(".")
    node = document
    for section in sections:
        if node.get(section) is None:
            node[section] = {}
        if not isinstance(node[section], dict):
            raise _Contradiction  # the schema rejects such a section later; keep the document unchanged until then
        node = cast("dict[str, Any]", node[section])
    node[last] = value


def _remove(document: dict[str, Any], path: str) -> None:
    *sections, last = path.split(".")
    node = document
    for section in sections:
        node = cast("dict[str, Any]", node[section])
    del node[last]
