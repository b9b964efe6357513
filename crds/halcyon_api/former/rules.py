"""The API server's rules for fields that have moved: which value counts, and that both places have the same value.

A rule that freezes a field compares the values that count. So a document may replace a former field by the present one with the same value,
but may not change the value. In CEL, ``a.?b`` is an optional field, and ``orValue`` gives its value if it is absent.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, cast

from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo

from halcyon_api.base import ApiModel, OneOf, cel
from halcyon_api.edits.classes import leaves_of, section_of
from halcyon_api.former.reading import field_at, is_free
from halcyon_api.former.table import FORMER, MovedField, moved_to

NOT_SET = -1
"""Literal for a number that is not set and has no default."""


def value_of(path: str, model: type[ApiModel], root: str = "self") -> str:
    """The expression of the value of a field that counts: that in its former place if it is set there, else that in its present place.

    Args:
        path: The field's present path below ``spec``. It is neither a section nor a list.
        model: The class of ``spec``.
        root: The expression of ``spec``.
    """
    if (row := moved_to(path)) is not None:
        return _value(row, model, root)
    for row in FORMER:
        kinds = _kinds(row, model)
        if kinds is not None and path.startswith(f"{row.present}."):
            below = path.removeprefix(f"{row.present}.")
            return _member(row, below, dict(_members(row, kinds))[below], root)
    return f"{root}.{path}"


def kind_is(path: str, kind: str, model: type[ApiModel], root: str = "self") -> str:
    """The expression that a choice among kinds has a certain kind, in its former or its present place.

    Args:
        path: The choice's present path below ``spec``.
        kind: Name of the kind.
        model: The class of ``spec``.
        root: The expression of ``spec``.
    """
    row = moved_to(path)
    kinds = _kinds(row, model) if row is not None else None
    if row is None or kinds is None:
        return f"has({root}.{path}.{kind})"
    return f"{_kind(row, kinds, model, root)} == '{kind}'"


def unchanged(row: MovedField, model: type[ApiModel]) -> str:
    """The expression that a moved field has the same value in ``self`` and ``oldSelf``, in whichever place each has it."""
    kinds = _kinds(row, model)
    if kinds is not None:
        sides = [
            [_kind(row, kinds, model, root), *(_member(row, *member, root) for member in _members(row, kinds))]
            for root in ("self", "oldSelf")
        ]
        equal = [f"{new} == {old}" for new, old in zip(*sides, strict=True)]
        return " && ".join([*equal, *(_later_unchanged(f"{row.present}.{name}") for name in _later_names(row, kinds))])
    return " == ".join(_value(row, model, root) for root in ("self", "oldSelf"))


def _later_unchanged(path: str) -> str:
    """The expression that a kind has the same value in ``self`` and ``oldSelf`` if both have it."""
    choice = path.rpartition(".")[0]
    there = [f"!has({root}.{one}) || " for root in ("self", "oldSelf") for one in (choice, path)]
    return f"({''.join(there)}self.{path} == oldSelf.{path})"


def contradiction_rules(model: type[ApiModel]) -> Iterator[dict[str, str]]:
    """One rule for each row of the table: a field that is set in both places has the same value in both."""
    for row in FORMER:
        yield cel(
            _agrees(row, model),
            f"{row.former} has moved to {row.present}, and the two differ; take {row.former} out",
            field_path=f".{row.former}",
        )


def _agrees(row: MovedField, model: type[ApiModel]) -> str:
    """The expression that both places agree. A default in the present place counts as not set: the API server may have filled it in."""
    former, present, default = _optional(row.former, "self"), f"self.{row.present}", _default(row, model)
    kinds = _kinds(row, model)
    if kinds is not None:
        ((kind, _),) = default.items()
        by_default = [f"has({present}.{kind})", *_free(row, kinds, kind)]
        agree = [_members_agree(row, kinds, name) for name in _former_names(row, kinds)]
        return f"!has({present}) || ({' && '.join(by_default)}) || ({' && '.join(agree)})"
    if not _is_number(default):
        there = _has(row.former, model, "self")
        absent = f"!({there})" if " && " in there else f"!{there}"
        unset = f"self.{row.former} == {_literal(default)} || " if is_free(row) else ""
        return f"{absent} || {unset}{present} == {_literal(default)} || {_value(row, model, 'self')} == {_typed(row, model, present)}"
    return f"{present} == {_literal(default)} || {former}.orValue({present}) == {present}"


def _value(row: MovedField, model: type[ApiModel], root: str) -> str:
    """The value of a field that counts. CEL optionals are used for numbers only: for an optional string or list the API server knows no
    bound, so it cannot estimate the cost."""
    former, present = f"{root}.{row.former}", f"{root}.{row.present}"
    if _is_number(_default(row, model)):
        return f"{_optional(row.former, root)}.orValue({present})"
    return f"({_has(row.former, model, root)} ? {_typed(row, model, former)} : {_typed(row, model, present)})"


def _has(path: str, model: type[ApiModel], root: str) -> str:
    """The expression that a former field is set. A section that may be absent is asked for first."""
    sections = path.split(".")[:-1]
    above = [".".join(sections[: depth + 1]) for depth in range(len(sections))]
    optional = [one for one in above if (field := field_at(model, one)) is not None and not field.is_required() and field.default is None]
    return " && ".join(f"has({root}.{one})" for one in (*optional, path))


def _typed(row: MovedField, model: type[ApiModel], expression: str) -> str:
    """Hides the type of a list: the API server does not compare lists of different fields, because it takes their types as different."""
    return f"dyn({expression})" if isinstance(_default(row, model), list) else expression


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _free(row: MovedField, kinds: type[OneOf], kind: str) -> list[str]:
    """For each member of a kind: the expression that its present place has the default or is not set."""
    place = f"self.{row.present}"
    return [
        f"{place}.?{kind}.?{path.removeprefix(f'{kind}.')}.orValue({default}) == {default}"
        for path, default in _members(row, kinds)
        if path.startswith(f"{kind}.")
    ]


def _members_agree(row: MovedField, kinds: type[OneOf], kind: str) -> str:
    former, present = f"{_optional(row.former, 'self')}.?{kind}", f"self.{row.present}.?{kind}"
    members = [path.removeprefix(f"{kind}.") for path, _ in _members(row, kinds) if path.startswith(f"{kind}.")]
    agree = [
        f"({free} || !{former}.?{name}.hasValue() || {former}.?{name} == {present}.?{name})"
        for name, free in zip(members, _free(row, kinds, kind), strict=True)
    ]
    return f"(!{former}.hasValue() || ({' && '.join([f'{present}.hasValue()', *agree])}))"


def _kind(row: MovedField, kinds: type[OneOf], model: type[ApiModel], root: str) -> str:
    """The name of the kind that counts."""
    (default,) = _default(row, model)
    places = ((row.former, _former_names(row, kinds)), (row.present, _names(kinds)))
    there = [(f"{_optional(place, root)}.?{name}.hasValue()", name) for place, names in places for name in names]
    chain = "".join(f"{condition} ? '{name}' : " for condition, name in there)
    return f"({chain}'{default}')"


def _member(row: MovedField, path: str, default: str, root: str) -> str:
    """The value of a member of a kind that counts."""
    below = path.replace(".", ".?")
    return f"{_optional(row.former, root)}.?{below}.or({_optional(row.present, root)}.?{below}).orValue({default})"


def _optional(path: str, root: str) -> str:
    return f"{root}.?{path.replace('.', '.?')}"


def _kinds(row: MovedField, model: type[ApiModel]) -> type[OneOf] | None:
    section = section_of(_field(row, model).annotation)
    return section if section is not None and issubclass(section, OneOf) else None


def _names(kinds: type[OneOf]) -> tuple[str, ...]:
    return tuple(map(to_camel, kinds.kinds()))


def _former_names(row: MovedField, kinds: type[OneOf]) -> tuple[str, ...]:
    """The kinds that the former place has."""
    return tuple(name for name in _names(kinds) if row.kinds is None or name in row.kinds)


def _later_names(row: MovedField, kinds: type[OneOf]) -> tuple[str, ...]:
    """The kinds that only the present place has."""
    return tuple(name for name in _names(kinds) if name not in _former_names(row, kinds))


def _members(row: MovedField, kinds: type[OneOf]) -> list[tuple[str, str]]:
    """Each member of each kind that the former place has, and the literal for an absent value."""
    former = _former_names(row, kinds)
    return [
        (leaf.path, _literal(NOT_SET if leaf.default is None else leaf.default))
        for leaf in leaves_of(kinds)
        if leaf.path.split(".")[0] in former
    ]


def _field(row: MovedField, model: type[ApiModel]) -> FieldInfo:
    return cast("FieldInfo", field_at(model, row.present))


def _default(row: MovedField, model: type[ApiModel]) -> Any:
    value: Any = _field(row, model).get_default(call_default_factory=True)
    return value.document() if isinstance(value, ApiModel) else value


def _literal(value: Any) -> str:
    return f"'{value}'" if isinstance(value, str) else json.dumps(value)
