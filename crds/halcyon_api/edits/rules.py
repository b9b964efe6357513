"""The API server's rules that freeze fields, generated from the table of edits."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic.alias_generators import to_camel

from halcyon_api.base import ApiModel, cel
from halcyon_api.edits.classes import class_of, leaves_of, section_of
from halcyon_api.former.rules import unchanged
from halcyon_api.former.table import concerned, moved_to

RULED_BY_THEIR_SECTION = ("recovery.divergence.spike",)
"""Sections that have their own rule, because it concerns more than one field."""
TOGETHER = "model"
"""A choice whose kinds with a former field have one rule each: a rule for each field would be a quarter of the definition."""
IN_ONE_RULE = ("model", "optimizer", "optimizer.adamw")
"""Sections whose optional members without a former field have one rule together, because there are many."""
LEFT_TO_DEFAULTS = ("checkpoint.root",)
"""Fields that the document may leave to the defaults. A rule of the whole run ensures that they are not added or removed later."""


def frozen_rules(model: type[ApiModel]) -> tuple[dict[str, str], ...]:
    """One rule for each frozen field, or for a section whose leaves are all frozen."""
    return tuple(_rules(model, model, "", ()))


def joint_rules(model: type[ApiModel]) -> Iterator[tuple[type[ApiModel], dict[str, str]]]:
    """The kinds of `TOGETHER` that have a former field, each with the rule that freezes its present fields, in the kind's own schema."""
    choice = section_of(model.model_fields[TOGETHER].annotation)
    for name, field in choice.model_fields.items() if choice is not None else ():
        path, section = f"{TOGETHER}.{field.alias or to_camel(name)}", section_of(field.annotation)
        if section is None or not concerned(path):
            continue
        below = [(one.alias or to_camel(key), not one.is_required() and one.default is None) for key, one in section.model_fields.items()]
        yield (
            section,
            cel(
                " && ".join(_equal(key, optional=optional) for key, optional in below),
                f"{path} must not change while the run exists; make a new run with another name and checkpoint.root "
                "(`kubectl halcyon diff` names the fields)",
                reason="FieldValueForbidden",
            ),
        )


def _rules(whole: type[ApiModel], model: type[ApiModel], path: str, guards: tuple[str, ...]) -> Iterator[dict[str, str]]:
    together: list[str] = []
    for name, field in model.model_fields.items():
        child = f"{path}.{field.alias or to_camel(name)}".removeprefix(".")
        section = section_of(field.annotation)
        below = [leaf.path for leaf in leaves_of(section, child)] if section is not None and section.model_fields else [child]
        frozen = [class_of(leaf) == "frozen" for leaf in below]
        if not any(frozen) or child in RULED_BY_THEIR_SECTION:
            continue
        optional = not field.is_required() and field.default is None
        if child in LEFT_TO_DEFAULTS:
            yield _same(child, optional=False, guards=(child,))
            continue
        if (row := moved_to(child)) is not None:
            yield _frozen(unchanged(row, whole), child, guards)
            continue
        if path in IN_ONE_RULE and optional and all(frozen) and not concerned(child):
            together.append(child)
            continue
        if section is None or (all(frozen) and not concerned(child)):
            yield _same(child, optional=optional, guards=guards)
            continue
        if path == TOGETHER:
            yield _frozen(f"has(self.{child}) == has(oldSelf.{child})", child, guards)
            continue
        if optional:
            yield _frozen(f"has(self.{child}) == has(oldSelf.{child})", child, guards)
        yield from _rules(whole, section, child, (*guards, child) if optional else guards)
    if together:
        yield _frozen(" && ".join(_equal(child, optional=True) for child in together), path, guards)


def _same(path: str, *, optional: bool, guards: tuple[str, ...]) -> dict[str, str]:
    return _frozen(_equal(path, optional=optional), path, guards)


def _equal(path: str, *, optional: bool) -> str:
    """The expression that a field has the same value in ``self`` and ``oldSelf``."""
    equal = f"self.{path} == oldSelf.{path}"
    return f"has(self.{path}) == has(oldSelf.{path}) && (!has(self.{path}) || {equal})" if optional else equal


def _frozen(rule: str, path: str, guards: tuple[str, ...]) -> dict[str, str]:
    absent = "".join(f"!has(self.{guard}) || !has(oldSelf.{guard}) || " for guard in guards)
    return cel(
        f"{absent}({rule})" if absent else rule,
        f"{path} must not change while the run exists; make a new run with another name and checkpoint.root",
        field_path=f".{path}",
        reason="FieldValueForbidden",
    )
