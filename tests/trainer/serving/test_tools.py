"""Calls of tools are found in a text wherever its parts are cut."""

from __future__ import annotations

import json

import pytest

from halcyon.serving.requests import Function
from halcyon.serving.tools import Call, CallReader, call_schema, form_of
from tests.trainer.serving.running import TEMPLATE

FORM = form_of(TEMPLATE)
CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "x"}}\n</tool_call>'


def read(text: str, size: int, *, forced: bool = False) -> tuple[str, list[Call]]:
    assert FORM is not None
    reader, shown, calls = CallReader(FORM, forced=forced), "", []
    parts = [text[at : at + size] for at in range(0, len(text), size)] or [""]
    for number, part in enumerate(parts, 1):
        more, found = reader.push(part, last=number == len(parts))
        shown += more
        calls += found
    return shown, calls


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_calls_are_separated_from_the_text(size: int) -> None:
    shown, calls = read(f"I look. {CALL}\n{CALL} done <tool", size)
    assert shown == "I look. \n done <tool"
    assert [(call.name, json.loads(call.arguments)) for call in calls] == [("look", {"at": "x"})] * 2
    assert calls[0].id != calls[1].id


@pytest.mark.parametrize(
    "text", ["<tool_call>nothing</tool_call> after", "<tool_call>{}</tool_call>", "a <tool_call>{", "<tool_call>[1]"]
)
def test_what_is_no_call_stays_text(text: str) -> None:
    for size in (1, 4, 100):
        assert read(text, size) == (text, [])


def test_a_forced_call_begins_inside_of_the_marks() -> None:
    shown, calls = read('{"name": "look", "arguments": {}}', 5, forced=True)
    assert (shown, [call.name for call in calls]) == ("", ["look"])
    assert read("cut off {", 5, forced=True) == ("cut off {", [])


def test_the_schema_of_a_call_names_the_function() -> None:
    functions = [Function(name="look", parameters={"type": "object", "properties": {}}), Function(name="wait")]
    assert call_schema(functions[1:])["properties"]["name"] == {"const": "wait"}
    assert [one["properties"]["name"]["const"] for one in call_schema(functions)["anyOf"]] == ["look", "wait"]
    assert form_of("no tools here") is None
