"""The real client of OpenAI at ``/v1/responses``."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.trainer.serving.running import Running

pytestmark = pytest.mark.slow
ASK: Any = {"model": "tiny", "input": "hello", "max_output_tokens": 12, "temperature": 0}
LOOK = {"type": "object", "properties": {"at": {"enum": ["x"]}}, "required": ["at"], "additionalProperties": False}
TOOLS: Any = [{"type": "function", "name": "look", "parameters": LOOK, "strict": True}]


def streamed(client: openai.OpenAI, **asked: Any) -> tuple[list[Any], Any]:
    events: list[Any] = list(client.responses.create(**ASK | asked, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    return events, events[-1].response


def test_a_text_is_that_of_a_conversation_whole_and_streamed(server: Running) -> None:
    client = server.openai()
    chat = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}],
        max_completion_tokens=12,
        temperature=0,
    )
    whole = client.responses.create(**ASK, instructions="be brief", metadata={"a": "b"})
    assert whole.output_text == chat.choices[0].message.content
    assert (whole.status, whole.metadata) == ("incomplete", {"a": "b"})
    assert whole.incomplete_details is not None
    assert whole.incomplete_details.reason == "max_output_tokens"
    assert whole.usage is not None
    assert chat.usage is not None
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == (chat.usage.prompt_tokens, 12)
    events, last = streamed(client, instructions="be brief")
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
    assert last.output[0].content[0].text == whole.output_text
    assert events[-1].type == "response.incomplete"


def test_a_call_and_its_result(server: Running) -> None:
    """A demanded call, whole and streamed, and the next question with its result."""
    client = server.openai()
    ask = {"max_output_tokens": 60, "tools": TOOLS, "tool_choice": {"type": "function", "name": "look"}}
    whole: Any = client.responses.create(**ASK | ask)
    events, last = streamed(client, **ask)
    for output in (whole.output, last.output):
        (call,) = output
        assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "look", {"at": "x"})
    with client.responses.stream(**ASK | ask) as stream:  # it puts the events together itself
        assert stream.get_final_response().output[0].type == "function_call"
    done = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert [json.loads(event.arguments) for event in done] == [{"at": "x"}]
    assert events[-1].type == "response.completed"
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "nothing"}
    question = {"role": "user", "content": [{"type": "input_text", "text": "hello"}]}
    again = client.responses.create(**ASK | {"input": [question, *whole.output, result]})
    function: Any = {"name": "look", "arguments": call.arguments}
    turn: Any = {"role": "assistant", "tool_calls": [{"id": call.call_id, "type": "function", "function": function}]}
    told: Any = {"role": "tool", "tool_call_id": call.call_id, "content": "nothing"}
    messages: Any = [{"role": "user", "content": "hello"}, turn, told]
    chat = client.chat.completions.create(model="tiny", messages=messages, max_tokens=12, temperature=0)
    assert again.output_text == chat.choices[0].message.content
    assert again.usage is not None
    assert chat.usage is not None
    assert again.usage.input_tokens == chat.usage.prompt_tokens


def test_an_answer_is_parsed_as_its_schema(server: Running) -> None:
    class Colour(BaseModel):
        is_red: bool

    client = server.openai()
    found = client.responses.parse(**ASK | {"max_output_tokens": 40}, text_format=Colour)
    assert isinstance(found.output_parsed, Colour)
    logs: Any = client.responses.create(**ASK, include=["message.output_text.logprobs"], top_logprobs=2).output[0]
    assert logs.content[0].logprobs
    assert all(len(entry.top_logprobs) == 2 for entry in logs.content[0].logprobs)


def test_what_the_server_cannot_do_is_refused(server: Running) -> None:
    client = server.openai()
    for changes, sentence in (
        ({"previous_response_id": "resp_1"}, "previous_response_id: this server keeps no answers; leave it out"),
        ({"tools": [{"type": "web_search"}]}, "tools.0"),
        ({"background": True}, "background"),
        ({"tool_choice": "required"}, "tool_choice: the request has no tools"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input.0"),
    ):
        with pytest.raises(openai.BadRequestError, match=sentence):
            client.responses.create(**ASK | changes)
