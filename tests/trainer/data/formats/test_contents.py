"""Contents of messages: texts and lists of parts, as each template takes them; and contents that no template takes."""

from __future__ import annotations

from typing import Any

import pytest

from halcyon.data.formats import build_formatter
from halcyon.data.formats.conversation import fitted
from halcyon.host.errors import BadConfiguration
from halcyon_api.spec.sources import ChatFormatSpec, FormatSpec, PromptFormatSpec
from tests.trainer.data.formats.standin import MarkedBytes, row

PARTS = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
PRINTED = "{% for m in messages %}{% generation %}({{ m['content'] }}){% endgeneration %}{% endfor %}"
JOINED = "{% for m in messages %}{% generation %}{{ '(' + m['content'] + ')' }}{% endgeneration %}{% endfor %}"
LISTED = (
    "{% for m in messages %}{% generation %}({% for p in m['content'] if p.type == 'text' %}<{{ p.text }}>{% endfor "
    "%}){% endgeneration %}{% endfor %}"
)
EITHER = (
    "{% for m in messages %}{% generation %}({% if m.content is string %}{{ m.content }}{% else %}{% for p in "
    "m.content %}{{ p.text }}{% endfor %}{% endif %}){% endgeneration %}{% endfor %}"
)
OF_ASSISTANT = (
    "{% for m in messages %}{% if m.role == 'user' %}({{ m.content }}){% else %}{% generation %}{% for p in m.content "
    "%}<{{ p.text }}>{% endfor %}{% endgeneration %}{% endif %}{% endfor %}"
)


def chat(template: str | None, *messages: dict[str, Any], tokenizer: MarkedBytes | None = None) -> str:
    tokenizer = tokenizer or MarkedBytes()
    formatter = build_formatter(FormatSpec(chat=ChatFormatSpec(template=template)), tokenizer, where="F")
    return tokenizer.show(formatter([row({"messages": list(messages)})])[0].tokens).removeprefix("[bos]")


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        (PRINTED, "(ab)(ab)"),
        (JOINED, "(ab)(ab)"),
        (EITHER, "(ab)(ab)"),
        (LISTED, "(<a><b>)(<a><b>)"),
        (OF_ASSISTANT, "(ab)<a><b>"),
    ],
)
def test_parts_are_given_as_the_template_takes_them(template: str, shown: str) -> None:
    assert chat(template, user(PARTS), assistant(PARTS)) == shown


def test_own_template_takes_parts_of_any_role_that_are_texts() -> None:
    shown = chat(None, {"role": "developer", "content": PARTS}, user(PARTS), assistant(PARTS))
    assert shown == "[user_start]ab\n\nab[user_end][assistant_start]ab[assistant_end]"


def test_a_content_may_be_null_where_a_tool_is_called() -> None:
    messages = [user("a"), assistant(None, tool_calls=[{}])]
    assert [fitted(message, place, ()) for place, message in enumerate(messages)] == messages


def test_a_message_may_have_keys_that_only_its_template_knows() -> None:
    template = "{% for m in messages %}{% generation %}({{ m.said }}){% endgeneration %}{% endfor %}"
    assert chat(template, {"role": "user", "said": "a"}, {"role": "assistant", "said": "b"}) == "(a)(b)"
    code = [{"type": "python", "text": "1+1"}, {"type": "python_output", "text": "2"}]
    assert "'python_output'" in chat(PRINTED, user("a"), assistant(code)), (
        "parts that run code are left to the template"
    )


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        ([user(42), assistant("b")], "does not fit the template: the content at place 0 is a number, not a text"),
        (
            [user("a"), assistant(True)],
            "does not fit the template: the content at place 1 is a truth value, not a text",
        ),
        ([user(None), assistant("b")], "has no content in the message at place 0"),
        ([user("a"), {"role": "assistant"}], "has no content in the message at place 1"),
        (
            [user([*PARTS, {"type": "image", "url": "x"}]), assistant("b")],
            "has an image at place 0, and the model sees none",
        ),
        (
            [user(["a"]), assistant("b")],
            "has a part that is no object in the content at place 0, and the template takes texts only",
        ),
    ],
)
def test_a_content_that_no_template_takes_is_one_sentence(messages: list[dict[str, Any]], sentence: str) -> None:
    with pytest.raises(BadConfiguration) as refused:
        chat(PRINTED, *messages)
    assert str(refused.value).startswith(
        f"F.chat.messagesField: row 17 (counted from 0) of s3://bucket/a.jsonl {sentence}"
    )
    prompts = build_formatter(FormatSpec(prompt=PromptFormatSpec(template=PRINTED)), MarkedBytes(), where="F")
    if messages[0]["content"] != "a":
        with pytest.raises(BadConfiguration) as refused:
            prompts([row({"messages": messages})])
        assert sentence in str(refused.value)


def test_a_conversation_that_begins_with_the_assistant_depends_on_the_template() -> None:
    assert chat(PRINTED, assistant("a"), user("b"), assistant("c")) == "(a)(b)(c)"
    with pytest.raises(
        BadConfiguration,
        match="has the role 'assistant' at place 0 where 'user' is expected; fix the row, or give a template",
    ):
        chat(None, assistant("a"), user("b"), assistant("c"))


def test_prompts_take_the_contents_too() -> None:
    tokenizer = MarkedBytes()
    formatter = build_formatter(FormatSpec(prompt=PromptFormatSpec(template=PRINTED)), tokenizer, where="F")
    assert (
        tokenizer.show(formatter([row({"prompt": [user(PARTS)], "answer": "r"})])[0].tokens).removeprefix("[bos]")
        == "(ab)r"
    )
    own = build_formatter(FormatSpec(prompt=PromptFormatSpec()), tokenizer, where="F")
    assert (
        tokenizer.show(own([row({"prompt": [user(PARTS)], "answer": "r"})])[0].tokens)
        == "[bos][user_start]ab[user_end][assistant_start]r"
    )
