# ruff: noqa: RUF001 - the marks of DeepSeek have signs that look like others
"""Calls of tools are found in a text wherever its parts are cut."""

from __future__ import annotations

import json

import jsonschema
import numpy as np
import pytest

from halcyon.inference import Sampling, Token
from halcyon.inference.sequence import Sequence
from halcyon.inference.tool_calls import FORMS, Call, CallReader, form_of
from halcyon.serving.call_schema import call_schema
from halcyon.serving.requests import Function
from halcyon.tokenizer.byte import ByteTokenizer
from tests.parity.templates.cases import TEMPLATES
from tests.trainer.serving.running import TEMPLATE

FUNCTIONS = {"look": {"properties": {"at": {"type": "string"}}}, "wait": {}}
CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "x"}}\n</tool_call>'


def read(
    text: str, size: int, *, form: str = "hermes", forced: bool = False, named: str | None = None
) -> tuple[str, list[Call]]:
    (found,) = [one for one in FORMS if one.name == form]
    reader, shown, calls = CallReader(found, FUNCTIONS, forced=forced, named=named), "", []
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
    shown, calls = read('{"at": "x"}', 5, form="deepseek", forced=True, named="look")
    assert (shown, [(call.name, call.arguments) for call in calls]) == ("", [("look", '{"at": "x"}')])


LOOK = '{"name": "look", "arguments": {"at": "1"}}'
CALLS = [
    ("hermes", f"I look. <tool_call>\n{LOOK}\n</tool_call>", "I look. "),
    ("qwen", f"I look. <tool_call>{LOOK}</tool_call>", "I look. "),
    (
        "qwen",
        "I look. <tool_call>\n<function=look>\n<parameter=at>\n1\n</parameter>\n</function>\n</tool_call>",
        "I look. ",
    ),
    ("llama3", LOOK.replace("arguments", "parameters"), ""),
    ("llama3", f"I look. <|python_tag|>{LOOK}", "I look. "),
    ("mistral", f'I look. [TOOL_CALLS][{LOOK[:-1]}, "id": "abcdefghi"}}]', "I look. "),
    ("mistral", 'I look. [TOOL_CALLS]look[ARGS]{"at": "1"}', "I look. "),
    ("mistral", 'I look. [TOOL_CALLS]look{"at": "1"}', "I look. "),
    (
        "deepseek",
        "I look. <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>look\n```json\n"
        '{"at": "1"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
        "I look. ",
    ),
    (
        "deepseek",
        'I look. <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>look<｜tool▁sep｜>{"at": "1"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
        "I look. ",
    ),
    (
        "gpt-oss",
        "<|channel|>analysis<|message|>I must look.<|end|><|start|>assistant<|channel|>commentary<|message|>I look. "
        '<|end|><|start|>assistant<|channel|>commentary to=functions.look <|constrain|>json<|message|>{"at": "1"}'
        "<|call|>",
        "I look. ",
    ),
    ("gpt-oss", ' to=functions.look<|channel|>commentary json<|message|>{"at": "1"}', ""),
    ("json", f"```json\n[{LOOK}]\n```", ""),
]


@pytest.mark.parametrize("size", [1, 5, 1000])
@pytest.mark.parametrize(("form", "text", "before"), CALLS, ids=[f"{form}-{len(text)}" for form, text, _ in CALLS])
def test_a_call_of_each_form_is_read(form: str, text: str, before: str, size: int) -> None:
    shown, calls = read(text, size, form=form)
    assert shown == before
    assert [(call.name, json.loads(call.arguments)) for call in calls] == [("look", {"at": "1"})]


@pytest.mark.parametrize(
    ("form", "text", "names"),
    [
        ("llama3", f"{LOOK}; {LOOK.replace('look', 'wait')}", ["look", "wait"]),
        ("mistral", "[TOOL_CALLS]look[ARGS]{}[TOOL_CALLS]wait[CALL_ID]abc[ARGS]{}", ["look", "wait"]),
        (
            "deepseek",
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>look<｜tool▁sep｜>{}<｜tool▁call▁end｜>\n"
            "<｜tool▁call▁begin｜>wait<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            ["look", "wait"],
        ),
        ("json", f"[{LOOK}, {LOOK}]", ["look", "look"]),
        ("hermes", '<tool_call>{"name": "wait", "arguments": null}</tool_call>', ["wait"]),
    ],
)
def test_several_calls_are_read_in_their_order(form: str, text: str, names: list[str]) -> None:
    for size in (1, 7, 1000):
        shown, calls = read(text, size, form=form)
        assert (shown.strip(), [call.name for call in calls]) == ("", names)
        assert all(isinstance(json.loads(call.arguments), dict) for call in calls)


@pytest.mark.parametrize(
    ("form", "text", "shown"),
    [
        ("json", '{"name": "Ada", "arguments": {}}', '{"name": "Ada", "arguments": {}}'),
        ("json", "An answer: {}", "An answer: {}"),
        ("llama3", "```python\nprint()\n```", "```python\nprint()\n```"),
        ("mistral", "[TOOL_CALLS]look", "[TOOL_CALLS]look"),
        ("gpt-oss", "<|channel|>final<|message|>Hello.<|return|>", "Hello."),
        (
            "gpt-oss",
            "<|channel|>analysis<|message|>I think.<|end|><|start|>assistant<|channel|>final<|message|>So.",
            "So.",
        ),
    ],
)
def test_an_answer_without_a_call_is_shown(form: str, text: str, shown: str) -> None:
    for size in (1, 6, 1000):
        assert read(text, size, form=form) == (shown, [])


def test_the_form_of_a_template_is_that_of_its_text() -> None:
    names = {
        "channels": "gpt-oss", "deepseek-drops": "deepseek", "mistral-ids": "mistral", "llama3-tools": "llama3",
        "chatml-tools": "hermes", "qwen3-thinking": "hermes", "gemma-turns": "json",
    }  # fmt: skip
    assert {name: form_of(TEMPLATES[name]).name for name in names} == names
    assert form_of(TEMPLATE).name == "hermes"
    assert form_of("<tool_call>\n<function=NAME>").name == "qwen"


def test_a_mark_that_is_a_special_token_shows_where_a_reader_needs_it() -> None:
    """Decoding leaves special tokens out; the text around it stays whole."""
    tokenizer = ByteTokenizer("")
    end = tokenizer.eos_id
    for spelled, expected in (({}, "a\ufffdb"), ({end: "[TOOL_CALLS]"}, "a\ufffd[TOOL_CALLS]b")):
        sequence = Sequence(np.zeros(1, np.int32), Sampling(9), spelled=spelled)
        sequence.begin(tokenizer)
        tokens = [97, 0xC3, end, 98]
        text = "".join(
            sequence.take(Token(0, token, 0.0, (), "length" if token == 98 else None)).text for token in tokens
        )
        assert text == expected


def test_the_schema_of_a_call_names_the_function() -> None:
    functions = [Function(name="look", parameters={"type": "object", "properties": {}}), Function(name="wait")]
    assert call_schema(functions[1:])["properties"]["name"] == {"const": "wait"}
    assert [one["properties"]["name"]["const"] for one in call_schema(functions)["anyOf"]] == ["look", "wait"]


def test_references_in_the_parameters_of_a_function_stay_inside_of_them() -> None:
    """As pydantic writes parameters with models in them."""
    places = {"$defs": {"Place": {"enum": ["x"]}}, "properties": {"at": {"$ref": "#/$defs/Place"}}}
    functions = [Function(name="look", parameters=places), Function(name="turn", parameters=places)]
    for schema in (call_schema(functions), call_schema(functions[:1])):
        for place, is_valid in (("x", True), ("y", False)):
            call = {"name": "look", "arguments": {"at": place}}
            assert jsonschema.Draft202012Validator(schema).is_valid(call) == is_valid
