"""The table of edits (``edits.yaml``): the class of each field of ``spec``, and the API server's rules that freeze
fields. The API server, the operator, ``kubectl halcyon diff`` and the docs use it.

A row applies to everything below its path, except where a longer path has a row of its own. ``*`` in a path matches any
one name. So each field has exactly one class. A test finds a new field in a section without a row.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import WithJsonSchema

from halcyon_api.base import ApiModel, CelRule, cel, fields_by_name
from halcyon_api.yaml_text import read_document

RULED_BY_THEIR_SECTION = ("recovery.divergence.spike",)
"""Sections that have their own rule, because it concerns more than one field."""
LEFT_TO_DEFAULTS = ("checkpoint.root",)
"""Fields that the document may leave to the defaults.

A rule of the whole run ensures that they are not added or removed later.
"""


def frozen_rules(model: type[ApiModel]) -> tuple[CelRule, ...]:
    """One rule for each frozen field, or for a section whose leaves are all frozen.

    Raises:
        ValueError: Some fields of a section that may be absent are frozen; the message gives its path.
    """
    return tuple(_rules(model, ""))


def _rules(model: type[ApiModel], path: str) -> Iterator[CelRule]:
    for name, field in fields_by_name(model).items():
        child = f"{path}.{name}".removeprefix(".")
        section = section_of(field.annotation)
        below = [leaf.path for leaf in leaves_of(section, child)] if section and section.model_fields else [child]
        frozen = [class_of(leaf) == "frozen" for leaf in below]
        if not any(frozen) or child in RULED_BY_THEIR_SECTION:
            continue
        optional = not field.is_required() and field.default is None
        if child in LEFT_TO_DEFAULTS:
            yield _frozen(f"!has(self.{child}) || !has(oldSelf.{child}) || self.{child} == oldSelf.{child}", child)
        elif section is None or all(frozen):
            # A section is compared as a whole: with a rule for each of its fields the definition would be too long for
            # an annotation.
            yield _frozen(
                _equal(child, optional=optional),
                child,
                " (see `kubectl halcyon diff`)" if len(below) > 1 else "",
            )
        elif optional:
            raise ValueError(
                f"{child}: a section that may be absent must be frozen as a whole, or be in RULED_BY_THEIR_SECTION"
            )
        else:
            yield from _rules(section, child)


def _equal(path: str, *, optional: bool) -> str:
    """The expression that a field has the same value in ``self`` and ``oldSelf``.

    The API server cannot estimate the cost of ``self.?a == oldSelf.?a`` for an object, and rejects it.
    """
    equal = f"self.{path} == oldSelf.{path}"
    return f"has(self.{path}) == has(oldSelf.{path}) && (!has(self.{path}) || {equal})" if optional else equal


def _frozen(rule: str, path: str, which: str = "") -> CelRule:
    return cel(
        rule,
        f"{path} must not change{which}; train the change in a new run with spec.from",
        field_path=f".{path}",
        reason="FieldValueForbidden",
    )


EditClass = Literal["live", "atCheckpoint", "frozen"]

MEANINGS: dict[EditClass, str] = {
    "live": "applied at once; the training processes continue",
    "atCheckpoint": "the operator requests a checkpoint, then a new attempt continues from it: no step is lost",
    "frozen": "rejected by the API server when it is applied",
}


@dataclass(frozen=True)
class EditRule:
    """The class of a field, or of all fields below it."""

    path: str
    edit: EditClass
    why: str
    starts_again: bool = True
    """Whether such an edit starts a stalled or delayed run again, because it may have fixed the cause."""


EDIT_RULES = tuple(
    EditRule(path, **row)
    for path, row in read_document(Path(__file__).with_name("edits.yaml").read_text(encoding="utf-8")).items()
)


@lru_cache(maxsize=4096)  # paths of recorded values come from a status, so the number is not bounded
def edit_rule_of(path: str) -> EditRule | None:
    """The row that applies to a field: the matching row with the longest path. None if no row matches."""
    parts = path.split(".")
    found = [row for row in EDIT_RULES if _speaks_for(row.path.split("."), parts)]
    return max(found, key=lambda row: row.path.count("."), default=None)


def _speaks_for(row: list[str], path: list[str]) -> bool:
    return len(row) <= len(path) and all(mine in (theirs, "*") for mine, theirs in zip(row, path, strict=False))


def class_of(path: str) -> EditClass:
    """The class of a field. A field without a row counts as one that needs new pods."""
    row = edit_rule_of(path)
    return row.edit if row is not None else "atCheckpoint"


def starts_again(path: str) -> bool:
    """Whether a stopped run starts again when the field is edited."""
    row = edit_rule_of(path)
    return row is None or row.starts_again


@dataclass(frozen=True)
class Leaf:
    """A field that is not a section: a number, a string, a list, a map, or a kind without members."""

    path: str
    default: Any
    """Its default as JSON; None if it has none."""
    optional: bool
    """Whether it may be absent in the stored object although its section is present."""


@cache
def leaves_of(model: type[ApiModel], path: str = "") -> tuple[Leaf, ...]:
    """All leaves below a class, in the order of the document."""
    return tuple(_leaves(model, path))


def _leaves(model: type[ApiModel], path: str) -> Iterator[Leaf]:
    for name, field in fields_by_name(model).items():
        child = f"{path}.{name}".removeprefix(".")
        opaque = any(isinstance(one, WithJsonSchema) for one in field.metadata)  # to the API server it is one value
        sections = [section for section in sections_of(field.annotation) if section.model_fields and not opaque]
        if len(sections) > 1:  # the families: which fields there are, and with which defaults, depends on the family
            paths = dict.fromkeys(leaf.path for section in sections for leaf in leaves_of(section, child))
            yield from (Leaf(leaf, None, True) for leaf in paths)
            continue
        if sections:
            yield from leaves_of(sections[0], child)
            continue
        default: Any = None if field.is_required() else field.get_default(call_default_factory=True)
        if isinstance(default, ApiModel):
            default = default.document()
        yield Leaf(child, default, not field.is_required() and default is None)


def section_of(annotation: Any) -> type[ApiModel] | None:
    """The class of a field that is an object, required or optional; None for other fields."""
    return next(sections_of(annotation), None)


def sections_of(annotation: Any) -> Iterator[type[ApiModel]]:
    """The classes of a field that is an object: one, or those of the families."""
    if isinstance(annotation, type) and issubclass(annotation, ApiModel):
        yield annotation
    if get_origin(annotation) is Annotated:
        yield from sections_of(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        for part in get_args(annotation):
            yield from sections_of(part)
