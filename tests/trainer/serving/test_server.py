"""The real client of OpenAI against a server in this process."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import openai
import pytest

from halcyon.inference.chat import ChatPrompts
from halcyon.serving.limits import Limits
from halcyon.serving.preparing import prepare
from halcyon.serving.requests import ChatRequest, parsed
from halcyon.serving.served import Served
from tests.trainer.serving.running import Running

pytestmark = pytest.mark.slow
ASK: Any = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 12, "seed": 3}


def test_an_answer_whole_and_streamed_is_that_of_the_library(server: Running, tiny: Served) -> None:
    from halcyon.inference import Engine, Sampling, pieces

    client = server.openai()
    assert [model.id for model in client.models.list()] == ["tiny"]
    whole = client.chat.completions.create(**ASK, n=2, temperature=0.9, top_p=0.95)
    assert tiny.prompts is not None
    ids = tiny.prompts.seen(ASK["messages"])[0]
    engine = Engine(tiny.model, slots=4, length=192, tokens=tiny.tokenizer.vocab_size, alternatives=20)
    settings = [Sampling(12, temperature=0.9, top_p=0.95, seed=seed) for seed in (3, 4)]
    texts = ["", ""]
    for piece in pieces(engine, tiny.tokenizer, [ids, ids], settings, ends=tiny.ends):
        texts[piece.sequence] += piece.text
    assert [choice.message.content for choice in whole.choices] == texts
    assert whole.usage is not None
    assert whole.usage.prompt_tokens == len(ids)
    assert whole.usage.completion_tokens <= 24
    assert {choice.finish_reason for choice in whole.choices} <= {"stop", "length"}

    streamed, finished, usage = ["", ""], {}, None
    for chunk in client.chat.completions.create(
        **ASK, n=2, temperature=0.9, top_p=0.95, stream=True, stream_options={"include_usage": True}
    ):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
            finished[choice.index] = choice.finish_reason or finished.get(choice.index)
    assert streamed == texts
    assert usage == whole.usage
    assert finished == {choice.index: choice.finish_reason for choice in whole.choices}


def test_a_stop_string_ends_a_text_and_its_log_probabilities(server: Running) -> None:
    client = server.openai()
    plain = client.chat.completions.create(**ASK, logprobs=True, top_logprobs=3, temperature=0)
    (choice,) = plain.choices
    assert choice.logprobs is not None
    content = choice.logprobs.content or []
    text = choice.message.content or ""
    assert len(text) > 4
    for token in content:
        assert token.top_logprobs[0].logprob >= token.logprob - 1e-6
        assert len(token.top_logprobs) == 3
    stop = text[len(text) // 2 :][:2]
    for stream in (False, True):
        stopped = client.chat.completions.create(**ASK, logprobs=True, temperature=0, stop=stop, stream=stream)
        choices = [choice for chunk in stopped for choice in chunk.choices] if stream else stopped.choices
        shown = "".join((one.delta if stream else one.message).content or "" for one in choices)
        assert shown == text[: text.index(stop)]
        assert choices[-1].finish_reason == "stop"
        logs = [entry for one in choices for entry in (one.logprobs.content or [] if one.logprobs else [])]
        assert [entry.token for entry in logs] == [entry.token for entry in content[: len(logs)]]
        assert len(logs) < len(content)


def test_completions_of_several_prompts(server: Running, tiny: Served) -> None:
    client = server.openai()
    both: Any = client.completions.create(model="tiny", prompt=["a b", "Café"], max_tokens=5, seed=1, echo=True, n=2)
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    alone: Any = client.completions.create(model="tiny", prompt="Café", max_tokens=5, seed=4, logprobs=2)
    assert both.choices[3].text == "Café" + alone.choices[0].text
    logs = alone.choices[0].logprobs
    assert len(logs.tokens) == len(logs.token_logprobs) == len(logs.text_offset)
    ids = [*tiny.tokenizer.prefix, *tiny.tokenizer.encode("Café").tolist()]
    of_ids: Any = client.completions.create(model="tiny", prompt=ids, max_tokens=5, seed=4)
    assert of_ids.choices[0].text == alone.choices[0].text


def test_json_of_a_schema_is_valid(server: Running) -> None:
    import jsonschema

    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "blue"]}, "count": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["colour", "count"],
        "additionalProperties": False,
    }
    client = server.openai()
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "thing", "schema": schema}}
    ask = ASK | {"max_tokens": 60, "temperature": 1.5}
    several = client.chat.completions.create(**ask, response_format=wanted, n=3)
    plain = client.chat.completions.create(**ask)
    for choice in several.choices:
        assert choice.finish_reason == "stop"
        jsonschema.validate(json.loads(choice.message.content or ""), schema)
    assert plain.choices[0].message.content != several.choices[0].message.content
    with pytest.raises(openai.BadRequestError, match=r"response_format: the JSON schema cannot be used"):
        client.chat.completions.create(
            **ASK,
            response_format={"type": "json_schema", "json_schema": {"name": "thing", "schema": {"type": "wrong"}}},
        )


def test_a_required_tool_is_called_with_valid_arguments(server: Running) -> None:
    client = server.openai()
    parameters = {
        "$defs": {"Place": {"enum": ["x"]}},
        "type": "object",
        "properties": {"at": {"$ref": "#/$defs/Place"}},
        "required": ["at"],
        "additionalProperties": False,
    }
    tools: Any = [{"type": "function", "function": {"name": "look", "parameters": parameters}}]
    ask = ASK | {"max_tokens": 60}
    for stream in (False, True):
        found = client.chat.completions.create(**ask, tools=tools, tool_choice="required", stream=stream)
        choices = [choice for chunk in found for choice in chunk.choices] if stream else found.choices
        calls = [call for one in choices for call in ((one.delta if stream else one.message).tool_calls or ())]
        assert [(call.function.name, json.loads(call.function.arguments)) for call in calls] == [("look", {"at": "x"})]
        assert choices[-1].finish_reason == "tool_calls"


def test_variables_of_a_request_reach_the_template(server: Running) -> None:
    """A request cannot replace what the server gives to the template."""
    client = server.openai()

    def tokens(**variables: Any) -> int:
        given = {"extra_body": {"chat_template_kwargs": variables}} if variables else {}
        usage = client.chat.completions.create(**ASK, **given, reasoning_effort="high").usage
        assert usage is not None
        return usage.prompt_tokens

    plain = tokens()
    assert tokens(messages=[], add_generation_prompt=False, tools=[{}]) == plain
    assert tokens(enable_thinking=True) == plain + len("think")
    assert tokens(enable_thinking=False) == plain + len("high")
    assert tokens(enable_thinking=False, reasoning_effort="xx") == plain + len("xx")


def test_what_an_assistant_said_earlier_reaches_the_template(tiny: Served) -> None:
    """As the agents of other servers send it: calls without arguments, no calls, reasoning."""
    template = (
        "{% for m in messages %}{{ m.reasoning_content or '' }}{{ m.content }}{% if m.tool_calls is defined %}c{% for "
        "call in m.tool_calls %}{{ call.function.arguments | items | list }}{% endfor %}{% endif %};{% endfor %}"
    )
    served = replace(tiny, prompts=ChatPrompts(tiny.tokenizer, template))

    def shown(**said: Any) -> str:
        messages: Any = [{"role": "user", "content": "?"}, {"role": "assistant", **said}]
        batch = prepare(parsed(ChatRequest, {"messages": messages}), served, 192, Limits())
        return tiny.tokenizer.decode(batch.sequences[0].prompt).partition(";")[2]

    def call(arguments: str) -> list[Any]:
        return [{"id": "1", "type": "function", "function": {"name": "look", "arguments": arguments}}]

    assert shown(content=None, tool_calls=call("")) == "c[];"
    assert shown(content="x", tool_calls=call('{"at": 1}')) == "xc[('at', 1)];"
    assert shown(content="x", tool_calls=[]) == "x;"
    assert shown(content="x", reasoning_content="why ") == shown(content="x", reasoning="why ") == "why x;"


def test_a_second_question_finds_the_beginning_of_the_first(server: Running) -> None:
    client = server.openai()
    ask = ASK | {"messages": [{"role": "user", "content": "x y z " * 16}], "temperature": 0}
    first, second = (client.chat.completions.create(**ask) for _ in range(2))
    assert first.usage is not None
    assert second.usage is not None
    assert first.usage.prompt_tokens_details is not None
    assert second.usage.prompt_tokens_details is not None
    assert (first.usage.prompt_tokens_details.cached_tokens, second.usage.prompt_tokens_details.cached_tokens) == (
        0,
        64,
    )
    assert first.choices[0].message.content == second.choices[0].message.content


def test_errors_have_the_form_that_the_client_knows(server: Running) -> None:
    client = server.openai()
    with pytest.raises(openai.NotFoundError, match="there is no model 'other'; this server has 'tiny'"):
        client.chat.completions.create(**ASK | {"model": "other"})
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(**ASK | {"max_tokens": 1000})
    assert long.value.code == "context_length_exceeded"
    assert long.value.param == "max_tokens"
    with server.http() as http:
        for content, kind, status in (
            (b"{", "application/json", 400),
            (b"[]", "application/json", 400),
            (b"{}", "text/plain", 415),
            (b" " * 20_001, "application/json", 413),
        ):
            answer = http.post("/v1/chat/completions", content=content, headers={"content-type": kind})
            assert answer.status_code == status
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert http.get("/v1/nothing").json()["error"]["code"] == "not_found"
        assert http.get("/v1/completions").status_code == 405
        assert (http.get("/health").status_code, http.get("/ready").status_code) == (200, 200)
        metrics = http.get("/metrics").text
    assert 'halcyon_serving_requests_total{endpoint="chat",outcome="invalid"}' in metrics
    assert "halcyon_serving_time_to_first_token_seconds_count" in metrics
