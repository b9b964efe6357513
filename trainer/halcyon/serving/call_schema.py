"""The JSON schema of the calls that a request demands."""

from collections.abc import Sequence
from typing import Any

from halcyon.serving.requests import Function


def call_schema(functions: Sequence[Function]) -> dict[str, Any]:
    """The JSON schema of a call of one of some functions."""
    forms = [
        {
            "type": "object",
            "properties": {
                "name": {"const": function.name},
                "arguments": _moved(
                    function.parameters or {"type": "object"},
                    f"#/anyOf/{number}/properties/arguments" if len(functions) > 1 else "#/properties/arguments",
                ),
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for number, function in enumerate(functions)
    ]
    return forms[0] if len(forms) == 1 else {"anyOf": forms}


def _moved(schema: Any, place: str) -> Any:
    """A schema whose references to itself lead to its place in another one."""
    if isinstance(schema, list):
        return [_moved(part, place) for part in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {key: _moved(part, place) for key, part in schema.items()}
    to = moved.get("$ref")
    return moved | {"$ref": place + to[1:]} if isinstance(to, str) and to.startswith("#") else moved
