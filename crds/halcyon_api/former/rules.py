"""The rules of the API server about fields that have moved: which value counts, and that both places say the same.

A rule that keeps a field as it is compares the values that count. So a document may replace a former field by the present one with the same
value, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, cast

from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo

from halcyon_api.base import ApiModel, OneOf, cel
from halcyon_api.edits.classes import leaves_of, section_of
from halcyon_api.former.reading import field_at
from halcyon_api.former.table import FORMER, MovedField, moved_to

_SCALARS = (str, bool, int, float)


def value_of(path: str, model: type[ApiModel], root: str = "self") -> str:
    """The value of a field that counts, as an expression: that in its former place, if it has one and that is set.

    Args:
        path: The field's present path below ``spec``. No section.
        model: The class of ``spec``.
        root: The expression of ``spec``.
    """
    row = moved_to(path)
    return f"{root}.{path}" if row is None else _counting(row.former, path, model, root)


def unchanged(row: MovedField, model: type[ApiModel]) -> str:
    """The expression that a moved field is the same in ``self`` and ``oldSelf``, wherever each has it."""
    section = _kinds(row, model)
    if section is None:
        return " == ".join(_counting(row.former, row.present, model, root) for root in ("self", "oldSelf"))
    same = [" == ".join(_has_kind(row, model, section, kind, root) for root in ("self", "oldSelf")) for kind in _names(section)]
    same += [
        " == ".join(_leaf_value(row, model, path, default, root) for root in ("self", "oldSelf")) for path, default in _leaves(row, section)
    ]
    return " && ".join(f"({one})" for one in same)


def contradiction_rules(model: type[ApiModel]) -> Iterator[dict[str, str]]:
    """One rule for each row of the table: a field that is set in both places has one value."""
    for row in FORMER:
        yield cel(
            _agrees(row, model),
            f"{row.former} has moved to {row.present}, and the two differ; take {row.former} out",
            field_path=f".{row.former}",
        )


def _agrees(row: MovedField, model: type[ApiModel]) -> str:
    section = _kinds(row, model)
    if section is None:
        former, present = f"self.{row.former}", f"self.{row.present}"
        default = _literal(_default(cast("FieldInfo", field_at(model, row.present))))
        if _is_list(row, model):
            return f"!{_has(row.former, model, 'self')} || {present}.size() == 0 || dyn({former}) == dyn({present})"
        return f"!{_has(row.former, model, 'self')} || {present} == {default} || {former} == {present}"
    untouched = " && ".join(f"self.{row.present}.{path} == {_literal(value)}" for path, value in _default_leaves(row, model))
    (kind,) = _default(cast("FieldInfo", field_at(model, row.present)))
    optional = [leaf.path for leaf in leaves_of(section) if leaf.path.startswith(f"{kind}.") and leaf.default is None]
    untouched += "".join(f" && !has(self.{row.present}.{path})" for path in optional)
    same = " && ".join(f"({_kind_agrees(row, model, section, kind)})" for kind in _names(section))
    return f"(has(self.{row.present}.{kind}) && {untouched}) || ({same})"


def _kind_agrees(row: MovedField, model: type[ApiModel], section: type[OneOf], kind: str) -> str:
    leaves = [leaf for leaf in leaves_of(section) if leaf.path.startswith(f"{kind}.")]
    same = f"has(self.{row.present}.{kind})"
    for leaf in leaves:
        former, present = f"self.{row.former}.{leaf.path}", f"self.{row.present}.{leaf.path}"
        set_there = f"has({present})"
        free = set_there if leaf.default is None else f"{present} == {_literal(leaf.default)}"
        same += f" && (!has({former}) || {'!' if leaf.default is None else ''}{free} || {former} == {present})"
    return f"!{_has(f'{row.former}.{kind}', model, 'self', row)} || ({same})"


def _counting(former: str, present: str, model: type[ApiModel], root: str) -> str:
    values = f"{root}.{former}", f"{root}.{present}"
    field = field_at(model, present)
    if field is None or not _is_scalar(field):  # two lists are of two types in the eyes of the API server
        values = f"dyn({values[0]})", f"dyn({values[1]})"
    return f"({_has(former, model, root)} ? {values[0]} : {values[1]})"


def _has_kind(row: MovedField, model: type[ApiModel], section: type[OneOf], kind: str, root: str) -> str:
    any_former = " || ".join(_has(f"{row.former}.{name}", model, root, row) for name in _names(section))
    return f"({any_former} ? {_has(f'{row.former}.{kind}', model, root, row)} : has({root}.{row.present}.{kind}))"


def _leaf_value(row: MovedField, model: type[ApiModel], path: str, default: str, root: str) -> str:
    kind, _, _ = path.partition(".")
    former, present = f"{root}.{row.former}.{path}", f"{root}.{row.present}"
    there = _has(f"{row.former}.{kind}", model, root, row)
    return f"({there} && has({former}) ? {former} : has({present}.{kind}) && has({present}.{path}) ? {present}.{path} : {default})"


def _has(path: str, model: type[ApiModel], root: str, row: MovedField | None = None) -> str:
    """That a former field is there, with the sections above it that need not be there."""
    parts = path.split(".")
    above = [".".join(parts[:length]) for length in range(1, len(parts))]
    former = row.former if row is not None else path
    asked = [place for place in above if place == former or place.startswith(f"{former}.") or _may_lack(field_at(model, place))]
    return "(" + " && ".join(f"has({root}.{place})" for place in (*asked, path)) + ")"


def _may_lack(field: FieldInfo | None) -> bool:
    return field is not None and not field.is_required() and field.get_default(call_default_factory=True) is None


def _kinds(row: MovedField, model: type[ApiModel]) -> type[OneOf] | None:
    field = field_at(model, row.present)
    section = section_of(field.annotation) if field is not None else None
    return section if section is not None and issubclass(section, OneOf) else None


def _names(section: type[OneOf]) -> tuple[str, ...]:
    return tuple(map(to_camel, section.kinds()))


def _leaves(row: MovedField, section: type[OneOf]) -> list[tuple[str, str]]:
    """Each field below a section, and the expression that stands for its absence."""
    return [(leaf.path, _literal(leaf.default if leaf.default is not None else -1)) for leaf in leaves_of(section)]


def _default_leaves(row: MovedField, model: type[ApiModel]) -> list[tuple[str, Any]]:
    ((kind, members),) = _default(cast("FieldInfo", field_at(model, row.present))).items()
    return [(f"{kind}.{name}", value) for name, value in members.items()]


def _default(field: FieldInfo) -> Any:
    value: Any = field.get_default(call_default_factory=True)
    return value.document() if isinstance(value, ApiModel) else value


def _is_list(row: MovedField, model: type[ApiModel]) -> bool:
    return isinstance(_default(cast("FieldInfo", field_at(model, row.present))), list)


def _is_scalar(field: FieldInfo) -> bool:
    return isinstance(_default(field), _SCALARS)


def _literal(value: Any) -> str:
    return json.dumps(value).replace('"', "'") if isinstance(value, str) else json.dumps(value)
