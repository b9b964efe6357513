"""The forms of published data: each is recognised by its fields, and becomes the messages that its authors mean."""

from __future__ import annotations

import json
from typing import Any

import pytest

from halcyon.data.forms.form import BadConversation, Form, of_first_row
from halcyon.data.forms.messages import conversation_of, is_rejected, pair_of, prompt_of
from halcyon_api.spec.sources import FormatSpec


def spec(kind: str, **fields: Any) -> FormatSpec:
    return FormatSpec.model_validate({kind: fields})


def u(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def a(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def s(content: Any) -> dict[str, Any]:
    return {"role": "system", "content": content}


def turn(speaker: str, value: Any) -> dict[str, Any]:
    return {"from": speaker, "value": value}


TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}

CHATS: list[tuple[str, dict[str, Any], list[dict[str, Any]]]] = [
    ("messages: messages", {"messages": [u("q"), a("r")], "id": 7}, [u("q"), a("r")]),
    (
        "messages: messages, tools",
        {"messages": [u("q"), a("r")], "tools": TOOLS, "parallel_tool_calls": False},
        [u("q"), a("r")],
    ),
    ("ShareGPT: conversations", {"conversations": [turn("human", "q"), turn("gpt", "r")], "id": "x"}, [u("q"), a("r")]),
    (
        "ShareGPT: conversations, system",
        {"conversations": [turn("human", "q"), turn("gpt", "r")], "system": "s"},
        [s("s"), u("q"), a("r")],
    ),
    (
        "ShareGPT: conversations, system",
        {"conversations": [turn("system", "t"), turn("user", "q"), turn("bing", "r")], "system": "s"},
        [s("t"), u("q"), a("r")],
    ),
    (
        "ShareGPT: conversations, system",
        {"conversations": [turn("user", "q"), turn("chatgpt", "r")], "system": ""},
        [u("q"), a("r")],
    ),
    ("conversation: conversation", {"conversation": [u("q"), a("r")]}, [u("q"), a("r")]),
    ("ShareGPT: conversations", {"conversations": {"from": ["human", "gpt"], "value": ["q", "r"]}}, [u("q"), a("r")]),
    (
        "ShareGPT: conversations",
        {"conversations": json.dumps([turn("human", "q"), turn("gpt", "r")])},
        [u("q"), a("r")],
    ),
    (
        "Alpaca: instruction, input, output",
        {"instruction": "q", "input": "i", "output": "r", "text": "all"},
        [u("q\ni"), a("r")],
    ),
    ("Alpaca: instruction, input, output", {"instruction": "q", "input": "", "output": "r"}, [u("q"), a("r")]),
    ("Alpaca: instruction, input, output", {"instruction": "q", "input": None, "output": "r"}, [u("q"), a("r")]),
    ("Alpaca: instruction, output", {"instruction": "q", "output": "r"}, [u("q"), a("r")]),
    (
        "Alpaca: history, instruction, output, system",
        {"instruction": "q", "output": "r", "system": "s", "history": [["q0", "r0"], ["q1", "r1"]]},
        [s("s"), u("q0"), a("r0"), u("q1"), a("r1"), u("q"), a("r")],
    ),
    (
        "Alpaca: instruction, context, response",
        {"instruction": "q", "context": "c", "response": "r", "category": "z"},
        [u("q\nc"), a("r")],
    ),
    ("prompt and completion: prompt, completion", {"prompt": "q", "completion": "r"}, [u("q"), a("r")]),
    (
        "prompt and completion: prompt, completion",
        {"prompt": [s("s"), u("q")], "completion": [a("r")]},
        [s("s"), u("q"), a("r")],
    ),
    (
        "prompt and completion: prompt, completion",
        {"prompt": [turn("human", "q")], "completion": "r"},
        [u("q"), a("r")],
    ),
    ("prompt and completion: prompt, response", {"prompt": "[INST]", "response": "[1]"}, [u("[INST]"), a("[1]")]),
    (
        "question and answer: question, response, system_prompt",
        {"system_prompt": "s", "question": "q", "response": "r"},
        [s("s"), u("q"), a("r")],
    ),
    ("question and answer: query, answer", {"query": "q", "answer": "r"}, [u("q"), a("r")]),
]


@pytest.mark.parametrize(("name", "row", "messages"), CHATS)
def test_a_conversation_is_recognised(name: str, row: dict[str, Any], messages: list[dict[str, Any]]) -> None:
    form = of_first_row(spec("chat"), row)
    assert str(form) == name
    assert conversation_of(form, row).messages == messages
    assert set(form.needed) <= row.keys()
    assert Form.model_validate_json(form.model_dump_json(by_alias=True)) == form, "the ledger keeps it"


@pytest.mark.parametrize("tools", [TOOLS, json.dumps(TOOLS)])
def test_tools_are_a_list_for_templates(tools: Any) -> None:
    row = {"conversations": [turn("human", "q"), turn("gpt", "r")], "tools": tools}
    assert conversation_of(of_first_row(spec("chat"), row), row).tools == TOOLS
    named = {"talk": [u("q"), a("r")], "tools": tools}
    form = of_first_row(spec("chat", messagesField="talk", toolsField="tools"), named)
    assert conversation_of(form, named, "tools").tools == tools, "what the document names stays as it is"
    assert conversation_of(of_first_row(spec("chat", messagesField="talk"), named), named).tools is None


def test_a_named_field_is_read_as_it_is_named() -> None:
    row = {"talk": [turn("human", "q"), turn("gpt", "r")], "messages": [u("x"), a("y")], "label": False, "system": "s"}
    form = of_first_row(spec("chat", messagesField="talk"), row)
    assert str(form) == "messages: talk"
    assert conversation_of(form, row).messages == [u("q"), a("r")]


@pytest.mark.parametrize(
    ("speaker", "role"),
    [
        ("human", "user"), ("Human", "user"), ("user", "user"), ("prompter", "user"),
        ("gpt", "assistant"), ("GPT", "assistant"), ("assistant", "assistant"), ("chatgpt", "assistant"), ("bing",
        "assistant"),
        ("bard", "assistant"), ("model", "assistant"), ("bot", "assistant"), ("system", "system"), ("developer",
        "developer"),
        ("tool", "tool"), ("observation", "tool"), ("function_response", "tool"),
    ],
)  # fmt: skip
def test_names_of_speakers_become_roles(speaker: str, role: str) -> None:
    row = {"conversations": [turn("human", "q"), turn(speaker, "x"), turn("gpt", "r")]}
    assert conversation_of(of_first_row(spec("chat"), row), row).messages[1] == {"role": role, "content": "x"}
    if not speaker.startswith("function"):
        row = {"messages": [{"role": speaker, "content": "x"}, a("r")]}
        assert conversation_of(of_first_row(spec("chat"), row), row).messages[0] == {"role": role, "content": "x"}


def test_other_roles_of_messages_are_left_to_the_template() -> None:
    row = {"messages": [{"role": "ipython", "content": "x"}, {"role": "Narrator", "value": "y"}]}
    found = conversation_of(of_first_row(spec("chat"), row), row).messages
    assert found == [{"role": "ipython", "content": "x"}, {"role": "Narrator", "content": "y"}]


@pytest.mark.parametrize(
    "value",
    [
        '{"name": "f", "arguments": {"x": 1}}',
        '[{"name": "f", "arguments": {"x": 1}}]',
        {"name": "f", "arguments": {"x": 1}},
        json.dumps([CALL]),
    ],
)
def test_a_function_call_is_a_call_of_a_tool(value: Any) -> None:
    row = {
        "conversations": [turn("human", "q"), turn("function_call", value), turn("observation", "o"), turn("gpt", "r")]
    }
    assert conversation_of(of_first_row(spec("chat"), row), row).messages == [
        u("q"), a("", tool_calls=[CALL]), {"role": "tool", "content": "o"}, a("r"),
    ]  # fmt: skip


SPOKEN = "\n\nHuman: q\n\nAssistant: r\n\nHuman: p\n\nAssistant: "
PAIRS: list[tuple[str, dict[str, Any], list[dict[str, Any]]]] = [
    ("pairs: chosen, rejected", {"chosen": [u("q"), a("good")], "rejected": [u("q"), a("bad")]}, [u("q")]),
    (
        "pairs: chosen, rejected",
        {"chosen": [turn("human", "q"), turn("gpt", "good")], "rejected": [turn("human", "q"), turn("gpt", "bad")]},
        [u("q")],
    ),
    ("pairs: chosen, rejected", {"chosen": f"{SPOKEN}good", "rejected": f"{SPOKEN}bad"}, [u("q"), a("r"), u("p")]),
    ("pairs with a prompt: prompt, chosen, rejected", {"prompt": "q", "chosen": "good", "rejected": "bad"}, [u("q")]),
    (
        "pairs with a prompt: prompt, chosen, rejected, system",
        {"prompt": "q", "chosen": "good", "rejected": "bad", "system": "s"},
        [s("s"), u("q")],
    ),
    (
        "pairs with a prompt: prompt, chosen, rejected",
        {"prompt": [s("s"), u("q")], "chosen": [a("good")], "rejected": [a("bad")]},
        [s("s"), u("q")],
    ),
    (
        "pairs with a prompt: question, chosen, rejected, system",
        {"system": "s", "question": "q", "chosen": "good", "rejected": "bad"},
        [s("s"), u("q")],
    ),
    # As in UltraFeedback: the conversations begin with the prompt.
    (
        "pairs with a prompt: prompt, chosen, rejected",
        {
            "prompt": "q ",
            "messages": [u("q"), a("good")],
            "chosen": [u("q"), a("good")],
            "rejected": [u("q"), a("bad")],
        },
        [u("q")],
    ),
    (
        "Alpaca pairs: instruction, input, chosen, rejected",
        {"instruction": "q", "input": "i", "chosen": "good", "rejected": "bad"},
        [u("q\ni")],
    ),
    (
        "ShareGPT pairs: conversations, chosen, rejected",
        {"conversations": [turn("human", "q")], "chosen": turn("gpt", "good"), "rejected": turn("gpt", "bad")},
        [u("q")],
    ),
    (
        "pairs of OpenAI: input, preferred_output, non_preferred_output",
        {
            "input": {"messages": [u("q")], "tools": [], "parallel_tool_calls": True},
            "preferred_output": [a("good")],
            "non_preferred_output": [a("bad")],
        },
        [u("q")],
    ),
]


@pytest.mark.parametrize(("name", "row", "before"), PAIRS)
def test_a_pair_is_recognised(name: str, row: dict[str, Any], before: list[dict[str, Any]]) -> None:
    form = of_first_row(spec("preference"), row)
    assert str(form) == name
    found = pair_of(form, row)
    assert (found.chosen, found.rejected) == ([*before, a("good")], [*before, a("bad")])


def test_the_fields_of_a_pair_can_be_named() -> None:
    row = {"prompt": "x", "better": "good", "worse": "bad", "asked": "q"}
    form = of_first_row(spec("preference", chosenField="better", rejectedField="worse", promptField="asked"), row)
    assert pair_of(form, row)[:2] == ([u("q"), a("good")], [u("q"), a("bad")])
    part = of_first_row(spec("preference", chosenField="better", promptField="asked"), row | {"rejected": "bad"})
    assert part.needed == ("asked", "better", "rejected")


PROMPTS: list[tuple[str, dict[str, Any], list[dict[str, Any]], Any]] = [
    ("messages: messages", {"messages": [u("q"), a("r")]}, [u("q"), a("r")], None),
    ("messages: messages", {"messages": "q"}, [u("q")], None),
    ("ShareGPT: conversations", {"conversations": [turn("human", "q"), turn("gpt", "r")]}, [u("q"), a("r")], None),
    ("prompts: prompt", {"prompt": "q"}, [u("q")], None),
    ("prompts: prompt", {"prompt": [s("s"), u("q")]}, [s("s"), u("q")], None),
    ("prompt and completion: prompt, completion", {"prompt": "q", "completion": "r"}, [u("q")], "r"),
    ("prompt and completion: prompt, completion", {"prompt": [u("q")], "completion": [a("r")]}, [u("q")], "r"),
    ("prompt and completion: prompt, solution", {"prompt": [u("q")], "solution": "r"}, [u("q")], "r"),
    ("Alpaca: instruction, input, output", {"instruction": "q", "input": "i", "output": "r"}, [u("q\ni")], "r"),
    ("question and answer: question, answer", {"question": "q", "answer": "#### 2"}, [u("q")], "#### 2"),
]


@pytest.mark.parametrize(("name", "row", "messages", "reference"), PROMPTS)
def test_a_prompt_is_recognised(name: str, row: dict[str, Any], messages: list[dict[str, Any]], reference: Any) -> None:
    form = of_first_row(spec("prompt"), row)
    assert str(form) == name
    found = prompt_of(form, row)
    assert (found.messages, found.reference, found.has_reference) == (messages, reference, reference is not None)


@pytest.mark.parametrize("field", ["label", "kto_tag"])
@pytest.mark.parametrize(
    ("good", "bad"), [(True, False), (1, 0), ("true", "false"), ("True", "False"), ("1", "0"), (1.0, 0.0)]
)
def test_an_answer_with_a_false_label_is_never_learnt(field: str, good: Any, bad: Any) -> None:
    for row in (
        {"prompt": "q", "completion": "r"},
        {"messages": [u("q"), a("r")]},
        {"instruction": "q", "output": "r"},
    ):
        for first in (good, bad, None):
            form = of_first_row(spec("chat"), row | {field: first})
            assert "with labels (KTO)" in str(form)
            assert conversation_of(form, row | {field: good}).messages == [u("q"), a("r")]
            assert conversation_of(form, row | {field: bad}).messages == []
            assert is_rejected(form, row | {field: bad})
            with pytest.raises(
                BadConversation, match=f"has null in the field '{field}', which is the label of an answer"
            ):
                conversation_of(form, row | {field: None})
            prompts = of_first_row(spec("prompt"), row | {field: first})
            assert prompt_of(prompts, row | {field: bad}).messages == []


def test_a_field_label_of_another_meaning_is_no_label() -> None:
    row = {"prompt": "q", "completion": "r", "label": "sports"}
    form = of_first_row(spec("chat"), row)
    assert "label" not in form.fields
    assert conversation_of(form, row).messages == [u("q"), a("r")]


@pytest.mark.parametrize(
    "row",
    [{"prompt": "q", "completion": ""}, {"instruction": "q", "output": ""}, {"messages": []}, {"conversations": []}],
)
def test_a_row_without_an_answer_is_empty(row: dict[str, Any]) -> None:
    assert conversation_of(of_first_row(spec("chat"), row), row).messages == []


def test_an_empty_answer_may_be_the_worse_one() -> None:
    row = {"prompt": "q", "chosen": "good", "rejected": ""}
    assert pair_of(of_first_row(spec("preference"), row), row).rejected == [u("q"), a("")]
    assert pair_of(of_first_row(spec("preference"), row), row | {"chosen": ""})[:2] == ([], [])


BAD: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("chat", {"body": "x"}, {}, "has no field 'messages', only body, and no other known form of a conversation"),
    ("chat", {"text": "x"}, {}, "has a text and no conversation"),
    (
        "chat",
        {"chosen": "x", "rejected": "y"},
        {},
        "has the fields chosen and rejected, so it is a pair and not a conversation",
    ),
    ("chat", {}, {}, "has no field 'messages', only nothing"),
    ("preference", {"messages": []}, {}, "has no field 'chosen', only messages, and no other known form of a pair"),
    (
        "preference",
        {"prompt": "q", "completion": "r", "label": True},
        {},
        "has a label for one answer (KTO), and no pair",
    ),
    ("prompt", {"text": "x"}, {}, "has no field 'messages', only text, and no other known form of a prompt"),
    (
        "chat",
        {"instruction": "q", "output": "r"},
        {"conversations": []},
        "has no field 'instruction', only conversations",
    ),
    (
        "chat",
        {"messages": []},
        {"instruction": "q", "output": "r"},
        "has no field 'messages', only instruction, output",
    ),
    ("chat", {"messages": []}, {"messages": None}, "is not a list of messages"),
    (
        "chat",
        {"messages": []},
        {"messages": "[{'role': 'user'}]"},
        "has a text in the field 'messages' that begins like a list and is not JSON",
    ),
    (
        "chat",
        {"prompt": "q", "completion": "r"},
        {"prompt": 7, "completion": "r"},
        "has a number in the field 'prompt', not a text or messages",
    ),
    (
        "chat",
        {"prompt": "q", "completion": "r"},
        {"prompt": "q", "completion": None},
        "has null in the field 'completion', not a text or messages",
    ),
    (
        "chat",
        {"prompt": "q", "completion": "r"},
        {"prompt": "q", "completion": 7},
        "has a number in the field 'completion', not a text or",
    ),
    (
        "chat",
        {"prompt": "q", "completion": "r"},
        {"prompt": None, "completion": "r"},
        "has null in the field 'prompt', not a text or messages",
    ),
    (
        "chat",
        {"instruction": "q", "output": "r", "history": []},
        {"instruction": "q", "output": "r", "history": ["x"]},
        "has a list in the field 'history' that is no list of pairs of texts",
    ),
    (
        "chat",
        {"instruction": "q", "output": "r", "history": []},
        {"instruction": "q", "output": "r", "history": "[x"},
        "has a text in the field 'history' that is no list of pairs of texts",
    ),
    (
        "chat",
        {"conversations": []},
        {"conversations": [turn("narrator", "x")]},
        "has a turn from 'narrator' at place 0; known are user, human,",
    ),
    (
        "chat",
        {"conversations": []},
        {"conversations": [turn("function_call", "f(x)")]},
        "has a function_call at place 0 that is not JSON with name and arguments",
    ),
    (
        "chat",
        {"messages": [], "tools": []},
        {"messages": [u("q"), a("r")], "tools": "f(x)"},
        "has a text in the field 'tools' that is not JSON",
    ),
    (
        "preference",
        {"chosen": "", "rejected": ""},
        {"chosen": "good", "rejected": "bad"},
        "has an answer in the field 'chosen' and no question",
    ),
    (
        "preference",
        {"prompt": "q", "chosen": "", "rejected": ""},
        {"prompt": "q", "chosen": None, "rejected": "bad"},
        "has null in the field 'chosen', not a text or messages",
    ),
    (
        "preference",
        {"prompt": "q", "chosen": "", "rejected": ""},
        {"prompt": "p", "chosen": [u("q"), a("good")], "rejected": [u("q"), a("bad")]},
        "has a conversation in the field 'chosen' that does not contain 'prompt'",
    ),
    (
        "preference",
        {"input": {}, "preferred_output": [], "non_preferred_output": []},
        {"input": "q", "preferred_output": [a("x")], "non_preferred_output": [a("y")]},
        "has a text in the field 'input', not an object with messages",
    ),
]


@pytest.mark.parametrize(("kind", "first", "row", "sentence"), BAD)
def test_a_row_of_another_form_is_one_sentence(
    kind: str, first: dict[str, Any], row: dict[str, Any], sentence: str
) -> None:
    read = {"chat": conversation_of, "preference": pair_of, "prompt": prompt_of}[kind]
    with pytest.raises(BadConversation) as refused:
        read(of_first_row(spec(kind), first), row)
    assert str(refused.value).startswith(sentence)
    assert refused.value.fix
