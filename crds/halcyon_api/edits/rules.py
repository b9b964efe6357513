"""The API server's rules that freeze fields, generated from the table of edits."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic.alias_generators import to_camel

from halcyon_api.base import ApiModel, cel
from halcyon_api.edits.classes import class_of, leaves_of, section_of

RULED_BY_THEIR_SECTION = ("recovery.divergence.spike",)
"""Sections that have their own rule, because it concerns more than one field."""
LEFT_TO_DEFAULTS = ("checkpoint.root",)
"""Fields that the document may leave to the defaults.

A rule of the whole run ensures that they are not added or removed later.
"""


def frozen_rules(model: type[ApiModel]) -> tuple[dict[str, str], ...]:
    """One rule for each frozen field, or for a section whose leaves are all frozen.

    Raises:
        ValueError: Some fields of a section that may be absent are frozen; the message gives its path.
    """
    return tuple(_rules(model, ""))


def _rules(model: type[ApiModel], path: str) -> Iterator[dict[str, str]]:
    for name, field in model.model_fields.items():
        child = f"{path}.{field.alias or to_camel(name)}".removeprefix(".")
        section = section_of(field.annotation)
        below = (
            [leaf.path for leaf in leaves_of(section, child)]
            if section is not None and section.model_fields
            else [child]
        )
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
                " (`kubectl halcyon diff` names the fields)" if len(below) > 1 else "",
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


def _frozen(rule: str, path: str, which: str = "") -> dict[str, str]:
    return cel(
        rule,
        f"{path} must not change{which}; make a new run with another name and checkpoint.root",
        field_path=f".{path}",
        reason="FieldValueForbidden",
    )
