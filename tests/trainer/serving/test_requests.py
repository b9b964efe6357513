"""A request that is not valid is refused with one sentence that names the field."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from halcyon.serving.errors import ApiError
from halcyon.serving.limits import Limits
from halcyon.serving.preparing import check
from halcyon.serving.requests import ChatRequest, TextRequest, parsed
from halcyon.serving.served import Source

HELLO = [{"role": "user", "content": "hello"}]
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
LARGE = {"type": "function", "function": {"name": "look", "parameters": {"a": "b" * 99}}}
DEEP: dict[str, Any] = functools.reduce(lambda inner, _: {"a": inner}, range(400), {})
CHAT: list[tuple[dict[str, Any], str | None, str]] = [
    ({"messages": None}, "messages", "input should be a valid list"),
    ({"messages": []}, "messages", "list should have at least 1 item"),
    ({"messages": [{"role": "boss", "content": "x"}]}, "messages.0.role", "input should be 'system'"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        "messages.0.content.0",
        "input should be 'text'",
    ),
    ({"temperature": -1}, "temperature", "greater than or equal to 0"),
    ({"temperature": "hot"}, "temperature", "valid number"),
    ({"top_p": 2}, "top_p", "less than or equal to 1"),
    ({"n": True}, "n", "valid integer"),
    ({"n": 17}, "n", "at most 16"),
    ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
    ({"max_tokens": 51}, "max_tokens", "more than the 50 tokens that this server allows"),
    ({"stop": [""]}, "stop.0", "at least 1 character"),
    ({"presence_penalty": 2.5}, "presence_penalty", "less than or equal to 2"),
    ({"logit_bias": {"5": 1}}, "logit_bias", "it is not supported; leave it out"),
    ({"temprature": 1}, "temprature", "there is no such field"),
    ({"model": "gpt"}, "model", "there is no model 'gpt'"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "only for stream: true"),
    ({"top_logprobs": 2}, "top_logprobs", "set logprobs: true too"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "at most 20"),
    ({"tool_choice": "required"}, "tool_choice", "has no tools"),
    (
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "other"}}},
        "tool_choice",
        "no tool 'other'",
    ),
    (
        {"tools": [TOOL], "response_format": {"type": "json_object"}},
        "response_format",
        "a request with tools has text answers",
    ),
    ({"response_format": {"type": "xml"}}, "response_format", "expected tags"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"a": "b" * 99}}}},
        "response_format",
        "at most 99",
    ),
    ({"chat_template_kwargs": {"a": "b" * 99}}, "chat_template_kwargs", "it has 107 bytes; at most 99"),
    ({"chat_template_kwargs": DEEP}, "chat_template_kwargs", "it is nested too deeply"),
    ({"tools": [LARGE]}, "tools", "tools.0.function.parameters: it has 107 bytes; at most 99 are possible"),
]
TEXT: list[tuple[dict[str, Any], str, str]] = [
    ({"prompt": 5}, "prompt", "valid string"),
    ({"prompt": []}, "prompt", "the list is empty"),
    ({"prompt": ["a"] * 9, "n": 2}, "n", "asks for 18 texts"),
    ({"best_of": 2}, "best_of", "must equal n"),
    ({"logprobs": 6}, "logprobs", "at most 5"),
    ({"max_tokens": -1}, "max_tokens", "greater than or equal to 0"),
    ({"suffix": "x"}, "suffix", "None"),
]
LIMITS = Limits(max_tokens=50, schema_bytes=99)


def refused(kind: type[Any], document: dict[str, Any]) -> ApiError:
    with pytest.raises(ApiError) as found:
        check(parsed(kind, document), "tiny", LIMITS)
    return found.value


@pytest.mark.parametrize(("changes", "param", "sentence"), CHAT, ids=[str(changes)[:60] for changes, _, _ in CHAT])
def test_a_bad_conversation_is_refused(changes: dict[str, Any], param: str, sentence: str) -> None:
    error = refused(ChatRequest, {"model": "tiny", "messages": HELLO, **changes})
    assert error.status == (404 if param == "model" else 400)
    assert error.document["error"]["param"].startswith(param)
    assert sentence in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize(("changes", "param", "sentence"), TEXT, ids=[str(changes)[:60] for changes, _, _ in TEXT])
def test_a_bad_completion_is_refused(changes: dict[str, Any], param: str, sentence: str) -> None:
    error = refused(TextRequest, {"model": "tiny", "prompt": "x", **changes})
    assert error.document["error"]["param"].startswith(param)
    assert sentence in str(error)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "m" * 10**6},
        {"model": "\n" * 1000},
        {"k" * 10**6: 1},
        {"response_format": {"type": "t" * 10**6}},
        {"messages": [{"role": "r" * 10**6}]},
        {"messages": [HELLO[0] | {"content": [{"type": "c" * 10**6}]}]},
        {"tools": [TOOL], "tool_choice": "c" * 10**6},
        {"stop": ["s" * 10**6]},
    ],
    ids=lambda changes: str(changes)[:40],
)
def test_an_error_does_not_repeat_a_long_text(changes: dict[str, Any]) -> None:
    error = refused(ChatRequest, {"model": "tiny", "messages": HELLO, **changes})
    assert len(str(error.document)) < 1500
    assert "\n" not in str(error)


def test_every_field_of_the_client_is_accepted_if_it_changes_nothing() -> None:
    document = {
        "messages": [
            {**HELLO[0], "refusal": None},
            {"role": "assistant", "content": None, "annotations": [], "audio": None},
        ],
        "frequency_penalty": 0,
        "logit_bias": None,
        "metadata": {"a": "b"},
        "user": "ada",
        "n": None,
        "temperature": 1,
        "parallel_tool_calls": True,
        "seed": -5,
    }
    assert check(parsed(ChatRequest, document), "tiny", LIMITS) == 1
    assert check(parsed(TextRequest, {"prompt": [[1, 2], [3]], "n": 3}), "tiny", LIMITS) == 6


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("hf:/runs/notes/exports/step-60", "notes"),
        ("hf:s3://bucket/notes/exports/step-60", "notes"),
        ("hf:/models/step-60", "models"),
        ("hf:/hub/models--ada--tiny/snapshots/0123abc", "tiny"),
        ("hf:models/instruct", "instruct"),
        ("hf://ada/tiny", "tiny"),
        ("/runs/notes/", "notes"),
        ("s3://bucket/notes@60", "notes"),
    ],
)
def test_a_served_model_has_the_name_of_the_model(place: str, name: str) -> None:
    assert Source(place)._name == name
    assert Source(place, "given")._name == "given"
