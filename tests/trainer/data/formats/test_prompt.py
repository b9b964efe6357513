"""Prompts: the tokens that a model answers, the reference of the reward after them, and rows that are rejected."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from halcyon.data.formats import build_formatter
from halcyon.data.formats.text import texts_of
from halcyon.data.sources.fields import needed_fields
from halcyon.host.errors import BadConfiguration
from halcyon.inference.chat import ChatPrompts
from halcyon_api.spec.sources import FormatSpec, PromptFormatSpec
from tests.trainer.data.formats.standin import MarkedBytes, counted, row

TOKENIZER = MarkedBytes()
ASKED = {"role": "user", "content": "1+1?"}


def documents(value: Any, **options: Any) -> list[tuple[str, list[str]]]:
    """The text of each document, and the part that counts: the reference."""
    formatter = build_formatter(
        FormatSpec(prompt=PromptFormatSpec(**options)), TOKENIZER, where="spec.data.sources[sums].format"
    )
    found = formatter([row(value)])
    assert all(one.weights is not None for one in found)
    return [
        (TOKENIZER.show(one.tokens), counted(TOKENIZER, one.tokens, one.weights))
        for one in found
        if one.weights is not None
    ]


BEFORE = "[bos][user_start]1+1?[user_end][assistant_start]"


@pytest.mark.parametrize(
    ("value", "options", "reference"),
    [
        ({"messages": [ASKED, {"role": "assistant", "content": "2"}]}, {}, "2"),
        (
            {
                "messages": [
                    ASKED,
                    {"role": "assistant", "content": [{"type": "text", "text": "2"}, {"type": "text", "text": "!"}]},
                ]
            },
            {},
            "2!",
        ),
        ({"messages": [ASKED]}, {}, ""),
        ({"question": "1+1?", "answer": "#### 2"}, {"field": "question", "reference_field": "answer"}, "#### 2"),
        (
            {"question": "1+1?", "tests": {"b": [1], "a": "ü"}},
            {"field": "question", "reference_field": "tests"},
            '{"b":[1],"a":"ü"}',
        ),
        ({"messages": [ASKED, {"role": "assistant", "content": "3"}], "right": 2}, {"reference_field": "right"}, "2"),
        ({"prompt": "1+1?", "solution": np.array([1, 2])}, {"reference_field": "solution"}, "[1,2]"),
    ],
)
def test_a_document_is_a_prompt_and_its_reference(value: Any, options: dict[str, str], reference: str) -> None:
    assert documents(value, **options) == [(BEFORE + reference, [reference] if reference else [])]


def test_the_prompt_is_that_of_a_chat() -> None:
    messages = [{"role": "system", "content": "Be brief."}, ASKED]
    ((text, _),) = documents({"messages": messages})
    assert text == TOKENIZER.show(ChatPrompts(TOKENIZER, None).seen(messages)[0])


def test_a_template_writes_the_beginning_of_the_answer() -> None:
    template = "{{ messages[0]['content'] }}{% if add_generation_prompt %} Answer:{% endif %}"
    assert documents({"messages": [ASKED]}, template=template) == [("1+1? Answer:", [])]


def test_a_template_may_take_two_user_turns() -> None:
    template = "{% for m in messages %}{{ m['content'] }};{% endfor %}"
    assert documents({"messages": [ASKED, ASKED]}, template=template) == [("1+1?;1+1?;", [])]


def test_empty_rows_are_left_out() -> None:
    assert documents({"messages": []}) == []
    assert documents({"question": ""}, field="question") == []


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"messages": 7}, "has a number in the field messages; give a text, or a list of messages"),
        (
            {"messages": [{"role": "assistant", "content": "2"}]},
            "has an answer and no message before it; add the question",
        ),
        ({"messages": [ASKED, ASKED]}, "has two user turns in a row at places 0 and 1"),
        ({"messages": ["x"]}, "has a message without a role at place 0"),
        ({"prompt": [{"content": "x"}]}, "has a message without a role at place 0"),
        ({"text": "x"}, "has no field 'messages', only text"),
    ],
)
def test_a_bad_row_is_one_sentence(value: Any, sentence: str) -> None:
    with pytest.raises(BadConfiguration, match=r"row 17 .counted from 0. of s3://bucket/a\.jsonl") as found:
        documents(value)
    assert sentence in str(found.value)


def test_the_fields_and_texts_of_prompts_are_read() -> None:
    form = FormatSpec(prompt=PromptFormatSpec(field="question", reference_field="answer"))
    assert needed_fields(form) == ("question", "answer")
    assert list(texts_of(form, [row({"question": "1+1?", "answer": "2"})], where="")) == ["1+1?", "2"]
    assert list(texts_of(FormatSpec(prompt=PromptFormatSpec()), [row({"messages": [ASKED]})], where="")) == ["1+1?"]
