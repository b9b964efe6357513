"""Calls of tools in a text, in the form in which the model's chat template writes them."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from halcyon.inference.text import StopStrings
from halcyon.serving.requests import Function


@dataclass(frozen=True)
class ToolsForm:
    """How a template writes a call: a JSON object with ``name`` and ``arguments`` between two marks.

    Attributes:
        begin: The mark before a call.
        end: The mark after it.
    """

    begin: str
    end: str


_HERMES = ToolsForm("<tool_call>\n", "\n</tool_call>")
"""The form of Hermes, Qwen 2.5 and Qwen 3."""


def form_of(template: str | None) -> ToolsForm | None:
    """The form of a template. None: it is none that this server reads."""
    return _HERMES if template is not None and "<tool_call>" in template and "</tool_call>" in template else None


class Call(NamedTuple):
    """A call of a tool."""

    id: str
    name: str
    arguments: str
    """JSON."""

    def document(self, index: int | None = None) -> dict[str, Any]:
        """The call in an answer; with its number in a stream."""
        place = {} if index is None else {"index": index}
        return place | {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


class CallReader:
    """Separates the calls in a text from the rest, while the text comes.

    A call that is no valid JSON object with a name stays part of the text.

    Args:
        form: How calls are written.
        forced: Whether the text begins inside of a call.
    """

    def __init__(self, form: ToolsForm, *, forced: bool = False) -> None:
        self._begin, self._end = form.begin.strip(), form.end.strip()
        self._outside = StopStrings((self._begin,))
        self._inside: str | None = "" if forced else None
        self._forced = forced

    def push(self, text: str, *, last: bool) -> tuple[str, list[Call]]:
        """The text and the calls that a part of a text completes."""
        shown, calls = "", []
        while True:
            if self._inside is None:
                before, mark, text = (self._outside.finish() + text).partition(self._begin)
                if not mark:
                    shown += self._outside.push(before)[0]
                    break
                shown += before
                self._inside = ""
            self._inside += text
            if self._end not in self._inside and not last:
                break
            body, end, text = self._inside.partition(self._end)
            call = _call(body)
            if call is not None:
                calls.append(call)
            elif self._forced:
                shown += body
            else:
                shown += self._begin + body + end
            self._inside, self._forced = None, False
        if last and self._inside is None:
            shown += self._outside.finish()
        return shown, calls


def _call(body: str) -> Call | None:
    try:
        call: Any = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return None
    arguments = call.get("arguments", call.get("parameters", {}))
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return Call(f"call_{secrets.token_hex(12)}", call["name"], text)


def call_schema(functions: Sequence[Function]) -> dict[str, Any]:
    """The JSON schema of a call of one of some functions."""
    forms = [
        {
            "type": "object",
            "properties": {"name": {"const": function.name}, "arguments": function.parameters or {"type": "object"}},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for function in functions
    ]
    return forms[0] if len(forms) == 1 else {"anyOf": forms}
