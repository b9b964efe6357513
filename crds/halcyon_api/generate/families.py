"""Makes one structural schema of the model families.

Structural schemas have no tagged unions. So the object has each field of all families once, with the widest bounds, and
rules that read ``family`` have the rest: which families have a field, which need it, and their own bounds. The schema
has no defaults, because with one in it every family would get the field: the descriptions name the defaults, and the
programs fill them in.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from halcyon_api.base import CelRule, cel
from halcyon_api.sentences import synonym

Schema = dict[str, Any]
Members = Mapping[str, Schema]
"""The schemas of the families, or those that the families have for one field, by family."""
Rules = Iterator[CelRule]

TAG = "family"
_VALUE = re.compile(r"(?<!has\()self\.(\w+)")
_OF_A_FAMILY = ("default", "description")
_FILE = "huggingFace"
"""A file of a model is refused in any case, so the rules of other families need not name it."""
_MOST_NAMED = 3
"""Families that a description names. A refusal names the field, and the table of families has all."""


def one_schema(families: Members, models: Sequence[str]) -> Schema:
    """One schema of the objects of all families.

    Args:
        families: The structural schema of each family, with descriptions and defaults.
        models: The families that are models. Descriptions leave the others out.

    Raises:
        ValueError: A field has schemas that one cannot cover; the message names it.
    """
    fields: dict[str, dict[str, Schema]] = {}
    for family, schema in families.items():
        for name, field in schema["properties"].items():
            fields.setdefault(name, {})[family] = field
    del fields[TAG]
    covers = {name: _cover(name, found) for name, found in fields.items()}
    tag: Schema = {
        "type": "string",
        "enum": list(families),
        "description": "See docs/reference/models.md.",
    }
    for name, cover in covers.items():
        cover["description"] = _described(fields[name], models)
    rules = (
        *_absent_fields(fields, families),
        *_required_fields(families),
        *_own_bounds(fields, covers, list(families)),
        *_own_rules(families),
    )
    return {
        "type": "object",
        "properties": {TAG: tag, **covers},
        "required": [TAG],
        "x-kubernetes-validations": list(rules),
    }


def _plain(schema: Schema) -> Schema:
    return {key: value for key, value in schema.items() if key not in _OF_A_FAMILY}


def _cover(name: str, field: Members) -> Schema:
    """The schema of all values that the field may have in at least one family."""
    found, *others = map(_plain, field.values())
    for schema in others:
        if schema.keys() != found.keys():
            raise ValueError(f"{name}: some families have {sorted(found)}, and some {sorted(schema)}")
        for key, value in schema.items():
            if key in ("minimum", "maximum"):
                found[key] = (min if key == "minimum" else max)(found[key], value)
            elif key == "enum":
                found[key] = list(dict.fromkeys((*found[key], *value)))
            elif key == "items":
                found[key] = _cover(name, _inner(field, key))
            elif key == "properties" and found[key].keys() == value.keys():
                parts = {part: _inner(_inner(field, key), part) for part in value}
                found[key] = {
                    part: {**_cover(part, own), "description": _described(own, list(own))}
                    for part, own in parts.items()
                }
            elif found[key] != value:
                raise ValueError(f"{name}: some families have the {key} {found[key]}, and some {value}")
    return found


def _inner(field: Members, key: str) -> Members:
    return {family: schema[key] for family, schema in field.items()}


def _described(field: Members, families: Sequence[str]) -> str:
    """The description of a field: that of most families, what differs in the others, the defaults, and which families
    have it."""
    texts, defaults = dict[str, str](), dict[str, str]()
    for family, schema in field.items():
        texts[family], _, words = schema["description"].partition(" Default: ")
        if default := words.removesuffix(".") or ("default" in schema and f"`{_written(schema['default'])}`"):
            defaults[family] = default
    (first, _), *others = _grouped(texts)
    parts = [first, *(f"{_listed(group)}: {text}" for text, group in others)]
    if defaults:
        (usual, _), *further = _grouped(defaults)
        parts.append(f"Default: {'; '.join((usual, *(f'{_listed(group)}: {text}' for text, group in further)))}.")
    absent = [family for family in families if family not in field]
    if len(absent) > 1:  # all but custom have the common fields
        word, named = ("Only", list(field)) if len(field) <= len(absent) else ("Not", absent)
        if len(named) <= _MOST_NAMED:
            parts.append(f"{word} of {_listed(named)}.")
    return " ".join(parts)


def _grouped(values: Mapping[str, str]) -> list[tuple[str, list[str]]]:
    """Equal texts with their families, those of most families first."""
    found: dict[str, list[str]] = {}
    for family, value in values.items():
        found.setdefault(value, []).append(family)
    return sorted(found.items(), key=lambda entry: -len(entry[1]))


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _among(chosen: Sequence[str]) -> str:
    """The expression that the family is one of some."""
    return f"self.{TAG} == '{chosen[0]}'" if len(chosen) == 1 else f"self.{TAG} in {list(chosen)}"


def _of(chosen: Sequence[str], families: Iterable[str], expression: str) -> str:
    """A rule of some families, in the shorter form."""
    others = [family for family in families if family not in chosen]
    chosen = [family for family in chosen if family != _FILE or len(chosen) == 1]
    others = [family for family in others if family != _FILE or len(others) == 1]
    if len(chosen) == 1:
        return f"self.{TAG} != '{chosen[0]}' || {expression}"
    if len(chosen) <= len(others):
        return f"!({_among(chosen)}) || {expression}"
    return f"{_among(others)} || {expression}" if others else expression


def _absent_fields(fields: Mapping[str, Members], families: Members) -> Rules:
    """Families do not have the fields of others. The message names the field that a family has in its place."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for name, field in fields.items():
        lacking = [family for family in families if family not in field]
        near = {family: synonym(name, list(families[family]["properties"])) for family in lacking}
        known = {family: meant for family, meant in near.items() if meant is not None}
        if known:
            hints = (f"{_among(group)} ? 'did you mean {meant}?' : " for meant, group in _grouped(known))
            yield cel(
                _of(lacking, families, f"!has(self.{name})"),
                f"='{name} is no field of ' + self.{TAG} + '; ' + ({''.join(hints)}'take it out')",
            )
        elif lacking:
            alike.setdefault(tuple(lacking), []).append(name)
    for lacking, names in alike.items():
        sentence = f" is no field of ' + self.{TAG} + '; take it out'"
        if len(names) == 1:
            yield cel(_of(lacking, families, f"!has(self.{names[0]})"), f"='{names[0]}{sentence}")
            continue
        some = " || ".join(f"has(self.{name})" for name in names)
        which = "".join(f"has(self.{name}) ? '{name}' : " for name in names[:-1]) + f"'{names[-1]}'"
        yield cel(_of(lacking, families, f"!({some})"), f"=({which}) + '{sentence}")


def _required_fields(families: Members) -> Rules:
    for family, schema in families.items():
        for name in schema.get("required", ()):
            if name != TAG:
                message = f"the family {family} needs {name}; add it"
                yield cel(f"self.{TAG} != '{family}' || has(self.{name})", message)


def _own_bounds(fields: Mapping[str, Members], covers: Members, families: Sequence[str]) -> Rules:
    """The bounds of a family that are narrower than those of the field."""
    for name, field in fields.items():
        found: dict[str, tuple[str, list[str]]] = {}
        for family, schema in field.items():
            for condition, message in _narrower(f"self.{name}", schema, covers[name]):
                found.setdefault(condition, (message, []))[1].append(family)
        for condition, (message, group) in found.items():
            expression = f"!has(self.{name}) || {condition}"
            yield cel(_of(group, families, expression), f"{name} of this family {message}", field_path=f".{name}")


def _narrower(value: str, schema: Schema, cover: Schema) -> Iterator[tuple[str, str]]:
    if schema.get("minimum") != cover.get("minimum"):
        yield f"{value} >= {schema['minimum']}", f"must be at least {schema['minimum']}"
    if schema.get("maximum") != cover.get("maximum"):
        yield f"{value} <= {schema['maximum']}", f"must be at most {schema['maximum']}"
    if {*schema.get("enum", ())} != {*cover.get("enum", ())}:
        yield f"{value} in {schema['enum']}", f"must be one of {_listed(schema['enum'])}"
    if "items" in schema and schema["items"] != cover["items"]:
        choices = schema["items"]["enum"]
        yield f"{value}.all(each, each in {choices})", f"must have only {_listed(choices)}"


def _own_rules(families: Members) -> Rules:
    """The rules of each family, with its defaults in the place of fields that a document leaves out."""
    found: dict[tuple[str, str, str | None], list[str]] = {}
    for family, schema in families.items():
        defaults = {
            name: _literal(field["default"], field["type"])
            for name, field in schema["properties"].items()
            if "default" in field
        }

        def filled(match: re.Match[str], defaults: Mapping[str, str] = defaults) -> str:
            name = match[1]
            return f"self.?{name}.orValue({defaults[name]})" if name in defaults else match[0]

        for rule in schema.get("x-kubernetes-validations", ()):
            expression = _VALUE.sub(filled, rule["rule"])
            found.setdefault((expression, rule["message"], rule.get("fieldPath")), []).append(family)
    for (expression, message, field_path), group in found.items():
        whole = f"({expression})" if " ? " in expression else expression
        yield cel(_of(group, families, whole), message, field_path=field_path)


def _literal(value: Any, kind: str) -> str:
    """A value as an expression."""
    if kind == "number":
        return repr(float(value))
    return f"'{value}'" if isinstance(value, str) else json.dumps(value)
