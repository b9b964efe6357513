"""Documents that the schema allows, with extreme and random values, for tests of every reader of a document.

They begin with a valid document and get values for some fields. The schema of the CRD says what a field may have; a rule
over several fields may still reject the document.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from functools import cache
from itertools import zip_longest
from random import Random
from typing import Any

from halcyon_api.generate.crd import custom_resource_definition

Schema = dict[str, Any]
Place = tuple[str | int, ...]
"""Keys and indices from the spec to a field."""

SPEC: Schema = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
LARGEST_EXACT = 2**53
NUMBERS = (0, -0.0, 1, 5e-324, 1e-300, 0.1, 1e16, 1e300, 1.7e308, LARGEST_EXACT, LARGEST_EXACT + 1, 2**63 - 1, -(2**63))
TEXTS = (
    *("", " ", "-", "0", "a", "A", "é", "\x00", "\x1b[31m", "\n", "\u202e", "~", "..", "a" * 40, "9" * 20, "1e300"),
    *(
        "9999-12-31T23:59:59Z",
        "0001-01-01T00:00:00Z",
        "9999-12-31",
        "0001-01-01",
        "2020-01-01T00:00:00Z",
        "2199-12-31T23:59:59-14:00",
        "[SL]",
        "SL",
        "S",
    ),
    *("0", "500m", "2Gi", "9" * 31 + "T", "1x1", "99999999x99999999", "4x4x4", "auto", "gsm8k", "a:b", "torch:x"),
    *(
        "file:///a",
        "s3://b/run",
        "s3://192.168.1.1/x",
        "gs://a.b/c",
        "s3://bucket/" + "x" * 500,
        "/a",
        "/proc",
        "a.b/c",
    ),
    *("http://[::1]:1", "http://[:::", "https://x:99999999", "us-east-1", "A_B", "PATH", "text", "loss", "a-b"),
)


_ONE_OF = re.compile(r"\[(has\(self\.\w+\)(,has\(self\.\w+\))*)\]\.exists_one\(one,one\)")


def fits(schema: Schema, value: Any) -> bool:
    """Whether the schema of a field without members allows a value."""
    if "enum" in schema:
        return value in schema["enum"]
    if schema.get("x-kubernetes-int-or-string"):
        return isinstance(value, int) or value == "auto"
    if schema["type"] == "string":
        long_enough = schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 10**9)
        return long_enough and re.search(schema.get("pattern", ""), value) is not None
    low, high = (
        schema.get("minimum", -(2**63)),
        schema.get("maximum", 2**63 - 1 if schema["type"] == "integer" else 2e308),
    )
    edges = (low, *((high,) if schema.get("exclusiveMaximum") else ())) if schema.get("exclusiveMinimum") else ()
    return low <= value <= high and value not in edges


@cache
def _longest(length: int) -> tuple[str, ...]:
    return (
        *("a" * length, "9" * length, "A" * length, "/a" * (length // 2), "x.y" * (length // 3)),
        "s" * (length - 1),
    )


def extremes(schema: Schema) -> list[Any]:
    """Smallest, largest, empty, longest and other values at an edge that the schema of a field allows."""
    kind = schema.get("type")
    if kind == "boolean":
        return [True, False]
    if kind == "array":
        return [[value] * count for value in (minimal(schema["items"]),) for count in _sizes(schema)]
    if kind == "object":
        members = schema.get("additionalProperties")
        keys = ("a", "", "A/b", "x" * 63, "\x1b", "x" * 1000)
        return [minimal(schema), *({key: minimal(members)} for key in keys if isinstance(members, dict))]
    bounds = [schema[name] for name in ("minimum", "maximum", "default") if name in schema]
    whole = kind == "integer" or "x-kubernetes-int-or-string" in schema
    numbers = [value for value in (*bounds, *NUMBERS) if not whole or isinstance(value, int)]
    texts = (*TEXTS, *_longest(schema.get("maxLength", 64)), *schema.get("enum", ()))
    found = texts if kind == "string" else (*numbers, "auto") if kind is None else numbers
    return [value for value in found if fits(schema, value)]


def _sizes(schema: Schema) -> list[int]:
    return sorted({schema.get("minItems", 0), 1, 2, min(schema.get("maxItems", 8), 64)})


def minimal(schema: Schema) -> Any:
    """A small value that a schema allows."""
    if "default" in schema and schema.get("type") != "object":
        return copy.deepcopy(schema["default"])
    if schema.get("type") == "object":
        needed = [*schema.get("required", ()), *(members[0] for members in choices(schema))]
        return {name: minimal(schema["properties"][name]) for name in needed}
    if schema.get("type") == "array":
        return [minimal(schema["items"])] * schema.get("minItems", 0)
    found = extremes(schema)
    return found[0] if found else None


def choices(schema: Schema) -> list[list[str]]:
    """The lists of members of which an object has exactly one."""
    rules = (_ONE_OF.search(rule["rule"]) for rule in schema.get("x-kubernetes-validations", ()))
    return [re.findall(r"has\(self\.(\w+)\)", rule[1]) for rule in rules if rule is not None]


def places(schema: Schema = SPEC, place: Place = ()) -> Iterator[tuple[Place, Schema]]:
    """Every field below a schema. A list has one item."""
    for name, child in schema.get("properties", {}).items():
        yield (*place, name), child
        yield from places(child, (*place, name))
    if isinstance(items := schema.get("items"), dict):
        yield (*place, 0), items
        yield from places(items, (*place, 0))


def put(spec: dict[str, Any], place: Place, value: Any) -> dict[str, Any]:
    """A copy of a spec with a value at a place; what the place needs is made."""
    spec = copy.deepcopy(spec)
    node: Any = spec
    schema = SPEC
    for number, part in enumerate(place):
        for members in choices(schema):
            if part in members:
                for other in members:
                    if other != part:
                        node.pop(other, None)
        schema = schema["items"] if part == 0 else schema["properties"][part]
        if number + 1 == len(place):
            fresh = value
        elif part == 0:
            fresh = node[0] if node else minimal(schema)
        else:
            fresh = node.get(part, None)
            fresh = minimal(schema) if fresh is None else fresh
        if part == 0:
            node[:1] = [fresh]
        else:
            node[part] = fresh
        node = fresh
    return spec


def with_extremes(base: dict[str, Any]) -> list[tuple[Place, Any, dict[str, Any]]]:
    """For each field and each extreme value: the place, the value, and the spec with it.

    The sections of the spec take turns, so that the first hundreds have values of each section.
    """
    sections: dict[str | int, list[tuple[Place, Any]]] = {}
    for place, schema in places():
        sections.setdefault(place[0], []).extend((place, value) for value in extremes(schema))
    for section in sections.values():
        Random(0).shuffle(section)
    turns = (one for turn in zip_longest(*sections.values()) for one in turn if one is not None)
    return [(place, value, put(base, place, value)) for place, value in turns]


def random_spec(base: dict[str, Any], random: Random, changes: int) -> dict[str, Any]:
    """A spec with random values in some fields. Each section is as likely as the others."""
    for _ in range(changes):
        section = random.choice(list(SPEC["properties"]))
        found = [(place, schema) for place, schema in places() if place[0] == section]
        place, schema = random.choice(found)
        if values := extremes(schema):
            base = put(base, place, random.choice(values))
    return base
