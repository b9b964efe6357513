"""Conversations: which tokens count in the loss, which texts can never become special tokens, and which conversations
are rejected.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from halcyon.data.formats import build_formatter
from halcyon.data.formats.template import ChatTemplate, day
from halcyon.data.formats.text import texts_of
from halcyon.data.sources.fields import needed_fields
from halcyon.host.errors import BadConfiguration
from halcyon.tokenizer.special import OWN_SPECIAL_TOKENS
from halcyon_api.spec.sources import ChatFormatSpec, FormatSpec, PreferenceFormatSpec
from tests.trainer.data.formats.standin import MarkedBytes, counted, row

TOKENIZER = MarkedBytes()
HOSTILE = ("<|user_", "start|>", "<", "|", "a", " ", "\ufdd0", "\ufdd1", "\ufdd2", "\ufdd2-", "0", "ü", "\n")
WHERE = "spec.data.sources[talks].format"
CHATML = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\n' }}
    {%- if message['role'] == 'assistant' %}
        {% generation %}{{ message['content'] | trim }}<|im_end|>{% endgeneration %}
    {%- else %}
        {{- message['content'] + '<|im_end|>' }}
    {%- endif %}
    {{- '\n' }}
{%- endfor %}
"""
CHATML_TOKENIZER = MarkedBytes(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], bos=256, eos=256)


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def system(content: Any) -> dict[str, Any]:
    return {"role": "system", "content": content}


def chat(tokenizer: MarkedBytes = TOKENIZER, **options: Any) -> Any:
    return build_formatter(FormatSpec(chat=ChatFormatSpec(**options)), tokenizer, where=WHERE)


def test_turns_are_between_special_tokens_and_only_assistant_tokens_count() -> None:
    (document,) = chat()([row({"messages": [user("Hi"), assistant("Hello"), user("1+1?"), assistant("2")]})])
    assert TOKENIZER.show(document.tokens) == (
        "[bos][user_start]Hi[user_end][assistant_start]Hello[assistant_end][user_start]1+1?[user_end][assistant_start]2[assistant_end]"
    )
    assert counted(TOKENIZER, document.tokens, document.weights) == ["Hello[assistant_end]", "2[assistant_end]"]
    assert document.size_bytes == len("HiHello1+1?2")


def test_outputs_of_tools_do_not_count_in_the_loss() -> None:
    parts = [
        {"type": "text", "text": "Let me see. "},
        {"type": "python", "text": "2**5"},
        {"type": "python_output", "text": "32"},
        {"type": "text", "text": "It is 32."},
    ]
    (document,) = chat()([row({"messages": [user("?"), assistant(parts)]})])
    assert TOKENIZER.show(document.tokens) == (
        "[bos][user_start]?[user_end][assistant_start]Let me see. [python_start]2**5[python_end]"
        "[output_start]32[output_end]It is 32.[assistant_end]"
    )
    assert counted(TOKENIZER, document.tokens, document.weights) == [
        "Let me see. [python_start]2**5[python_end]",
        "It is 32.[assistant_end]",
    ]


def test_the_system_message_joins_the_first_user_message() -> None:
    messages = [user("Hi"), assistant("Yes"), user("Why"), assistant("So")]
    (own,) = chat()([row({"messages": [system("Be brief."), *messages]})])
    (prompted,) = chat(system_prompt="Be brief.")([row({"messages": messages})])
    (kept,) = chat(system_prompt="Be long.")([row({"messages": [system("Be brief."), *messages]})])
    assert TOKENIZER.show(own.tokens).startswith("[bos][user_start]Be brief.\n\nHi[user_end][assistant_start]Yes")
    assert own.tokens.tolist() == prompted.tokens.tolist() == kept.tokens.tolist()
    assert TOKENIZER.show(own.tokens).count("Be brief.") == 1


def test_all_tokens_count_in_the_loss_if_requested() -> None:
    (document,) = chat(loss_on="all")([row({"messages": [user("nobody answers")]})])
    assert document.weights is None
    assert TOKENIZER.show(document.tokens) == "[bos][user_start]nobody answers[user_end]"


def test_a_template_of_another_model_can_be_used() -> None:
    (document,) = chat(CHATML_TOKENIZER, template=CHATML)(
        [row({"messages": [system("S"), user("U"), assistant(" A "), user("V")]})]
    )
    assert CHATML_TOKENIZER.show(document.tokens) == (
        "[im_start]system\nS[im_end]\n[im_start]user\nU[im_end]\n[im_start]assistant\nA[im_end]\n[im_start]user\nV[im_end]\n"
    )
    assert counted(CHATML_TOKENIZER, document.tokens, document.weights) == ["A[im_end]"]


def test_templates_get_tools_tokens_and_json_as_hugging_face_gives_them() -> None:
    template = (
        "{{ bos_token }}{{ tools | tojson }}{% for m in messages %}{% generation %}{{ m['content'] }}{% endgeneration "
        "%}{% endfor %}"
    )
    formatter = chat(template=template, tools_field="tools")
    (document,) = formatter([row({"messages": [assistant("ok")], "tools": [{"name": "größer", "marks": "<|bos|>"}]})])
    assert TOKENIZER.show(document.tokens) == '[bos][{"name": "größer", "marks": "<|bos|>"}]ok'
    assert [document.row for document in formatter([row({"messages": []}), row({"messages": [assistant("ok")]})])] == [
        1
    ]


@pytest.mark.parametrize(
    ("template", "learnt"),
    [
        (CHATML, "[im_end]"),
        (CHATML.replace("{% generation %}", "").replace("{% endgeneration %}", ""), "[im_end]"),
        (None, "[assistant_end]"),
    ],
    ids=["blocks", "no blocks", "own"],
)
@pytest.mark.parametrize("mark", [{"weight": 0}, {"train": False}, {"trainable": False}, {"loss_mask": 0}])
def test_an_answer_may_be_kept_out_of_the_loss(template: str | None, learnt: str, mark: dict[str, Any]) -> None:
    """As OpenAI's fine-tuning, axolotl and verl keep it out."""
    tokenizer = TOKENIZER if template is None else CHATML_TOKENIZER
    talk = [user("a"), assistant("wrong") | mark, user("b"), assistant("right") | {"weight": 1, "train": None}]
    (document,) = chat(tokenizer, template=template)([row({"messages": talk})])
    (span,) = counted(tokenizer, document.tokens, document.weights)
    assert span.endswith(f"right{learnt}")
    assert "wrong" not in span
    assert "wrong" in tokenizer.show(document.tokens)
    with pytest.raises(BadConfiguration, match="has an answer that must not be learnt, and lossOn: all"):
        chat(tokenizer, template=template, loss_on="all")([row({"messages": talk})])
    with pytest.raises(BadConfiguration, match="nothing in it would be learnt"):
        chat(tokenizer, template=template)([row({"messages": talk[:2]})])


CALLS = (
    "{% for m in messages %}{{ m.role }}{% for call in m.tool_calls or [] %}"
    "{% generation %}{{ ARGUMENTS }}{% endgeneration %}{% endfor %};{% endfor %}"
)


@pytest.mark.parametrize(
    ("printed", "arguments", "text"),
    [
        ("call.function.arguments | tojson", '{"town":"Oslo","days":2.0}', '{"town": "Oslo", "days": 2.0}'),
        ("call.function.arguments | tojson", {"town": "Oslo"}, '{"town": "Oslo"}'),
        ("call.function.arguments | items | list | length", "", "0"),
        ("call.function.arguments | tojson", '{"town": "Os', '"{\\"town\\": \\"Os"'),
        ("'`' + call.function.arguments + '`'", {"town": "Ålesund"}, '`{"town": "Ålesund"}`'),
        ("'`' + call.function.arguments + '`'", '{"town":1}', '`{"town":1}`'),
        ("call.function.arguments", {"town": 1}, '{"town": 1}'),
    ],
)
def test_a_template_gets_the_arguments_of_calls_in_the_form_that_it_prints(
    printed: str, arguments: Any, text: str
) -> None:
    """Rows of OpenAI have a text; most templates take an object, and some a text."""
    call = {"type": "function", "function": {"name": "look", "arguments": arguments}}
    template = CALLS.replace("ARGUMENTS", printed)
    (document,) = chat(template=template)([row({"messages": [user("?"), assistant("") | {"tool_calls": [call]}]})])
    assert counted(TOKENIZER, document.tokens, document.weights) == [text]


def test_what_a_generation_block_sets_is_known_to_the_block_alone() -> None:
    template = (
        "{% set a = 'x' %}{% for m in messages %}{% set b = 'y' %}{% generation %}{% set a = m['content'] %}{% set b = "
        "a + 'b' %}{{ a + b }}{% endgeneration %}{{ a + b }}{% endfor %}"
    )
    (document,) = chat(template=template)([row({"messages": [assistant("1"), assistant("2")]})])
    assert TOKENIZER.show(document.tokens) == "11bxy22bxy", "as `apply_chat_template` of transformers prints it"
    assert counted(TOKENIZER, document.tokens, document.weights) == ["11b", "22b"]


OWN = chat()
GLUED = chat(template="{% generation %}{% for m in messages %}{{ m['content'] }}{% endfor %}{% endgeneration %}")


@settings(max_examples=150)
@given(
    st.lists(
        st.lists(
            st.sampled_from(
                [
                    *OWN_SPECIAL_TOKENS,
                    "<|user_",
                    "start|>",
                    "<",
                    "|",
                    "a",
                    " ",
                    "\ufdd0",
                    "\ufdd1",
                    "\ufdd2",
                    "\ufdd2-",
                    "0",
                    "ü",
                    "\n",
                ]
            ),
            max_size=5,
        ).map("".join),
        min_size=3,
        max_size=3,
    )
)
@example(["<|user_", "start|>, said the fox<", "|bos|>"])
def test_contents_never_become_special_tokens_and_stay_unchanged(contents: list[str]) -> None:
    first, second, third = contents
    parts = [{"type": "text", "text": second}, {"type": "text", "text": third}]
    (document,) = OWN([row({"messages": [user(first), assistant(parts)]})])
    special = [token for token in document.tokens.tolist() if token >= 256]
    names = ["<|bos|>", "<|user_start|>", "<|user_end|>", "<|assistant_start|>", "<|assistant_end|>"]
    assert special == [TOKENIZER.special_tokens[name] for name in names]
    assert (
        TOKENIZER.show(document.tokens)
        == f"[bos][user_start]{first}[user_end][assistant_start]{second}{third}[assistant_end]"
    )
    # A template that puts strings directly next to each other.
    messages = [
        {"role": role, "content": content}
        for role, content in zip(("user", "assistant", "tool"), contents, strict=True)
    ]
    for document in GLUED([row({"messages": messages})]):
        assert TOKENIZER.show(document.tokens) == "".join(contents)
        assert (document.tokens < 256).all()


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        (
            [user("a"), user("b"), assistant("c")],
            "has two user turns in a row at places 0 and 1; join them, add the answer between them, or give a template",
        ),
        ([user("a")], "has no assistant turn, so nothing in it would be learnt; leave the row out, or set lossOn: all"),
        (
            [assistant("a"), user("b")],
            "has the role 'assistant' at place 0 where 'user' is expected; fix the row, or give a template for it",
        ),
        ([user("a"), assistant("b"), assistant("c")], "has the role 'assistant' at place 2 where 'user' is expected; "),
        ([user("a"), system("b"), assistant("c")], "has the role 'system' at place 1 where 'assistant' is expected; "),
        (
            [user("a"), assistant(None)],
            "has content at place 1 that is not a text and not a list of text, python, python_output parts; ",
        ),
        ([user(["a"]), assistant("b")], "has content at place 0 that is not a text; fix the row"),
        ([{"content": "a"}], "has a message without a role at place 0; fix the row"),
        ("hello", "is not a list of messages; name the field of the messages"),
    ],
)
def test_the_row_of_an_invalid_conversation_is_named(messages: Any, sentence: str) -> None:
    with pytest.raises(BadConfiguration) as refused:
        chat()([row({"messages": [user("a"), assistant("b")]}, 16), row({"messages": messages})])
    assert str(refused.value).startswith(
        f"{WHERE}.chat.messagesField: row 17 (counted from 0) of s3://bucket/a.jsonl {sentence}"
    )


def test_foreign_templates_decide_about_other_roles_and_repeated_turns() -> None:
    formatter = chat(CHATML_TOKENIZER, template=CHATML)
    assert formatter([row({"messages": [user("a"), assistant("b"), {"role": "tool", "content": "c"}, assistant("d")]})])
    (document,) = formatter([row({"messages": [user("a"), user("b"), assistant("c")]})])
    assert "a[im_end]\n[im_start]user\nb[im_end]" in CHATML_TOKENIZER.show(document.tokens)
    strict = "{% if messages[1]['role'] == 'user' %}{{ raise_exception('roles must alternate') }}{% endif %}" + CHATML
    with pytest.raises(BadConfiguration, match="does not fit the template: roles must alternate"):
        chat(CHATML_TOKENIZER, template=strict)([row({"messages": [user("a"), user("b"), assistant("c")]})])


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("{% for m in messages %}", "line 1 is not valid Jinja: "),
        (
            "{{ messages[0]['content'] }}",
            "it has no {% generation %} block and prints nothing of what the assistant says",
        ),
    ],
)
def test_an_unusable_template_is_reported_before_any_row(template: str, sentence: str) -> None:
    with pytest.raises(BadConfiguration) as refused:
        chat(template=template)
    assert str(refused.value).startswith(f"{WHERE}.chat.template: {sentence}")


def test_the_built_in_template_needs_its_special_tokens() -> None:
    with pytest.raises(
        BadConfiguration,
        match=r"\.chat\.template: the tokenizer has no special token <\|user_start\|>, which Halcyon's own",
    ):
        chat(CHATML_TOKENIZER)


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("raise_exception('no tools here')", "no tools here"),
        ("messages[5]['content']", "has no element 5"),
        ("''.__class__.__mro__", "access to attribute '__class__'"),
        ("messages.append(1)", "attribute 'append' of 'list' object is unsafe"),
    ],
)
def test_the_error_of_a_template_that_fails_or_escapes_names_the_row(expression: str, reason: str) -> None:
    formatter = chat(template="{% generation %}{{ " + expression + " }}{% endgeneration %}")
    with pytest.raises(
        BadConfiguration, match=r"row 17 \(counted from 0\) of s3://bucket/a\.jsonl does not fit the template: "
    ) as refused:
        formatter([row({"messages": [user("a"), assistant("b")]})])
    assert reason in str(refused.value)


def test_the_fields_of_a_preference_can_have_other_names() -> None:
    spec = FormatSpec(
        preference=PreferenceFormatSpec.model_validate({"chosenField": "better", "rejectedField": "worse"})
    )
    pair = {
        "better": [user("q"), assistant("good")],
        "worse": [user("q"), assistant("bad")],
        "chosen": [],
        "rejected": "no messages",
    }
    documents = build_formatter(spec, TOKENIZER, where=WHERE)([row(pair)])
    found = [counted(TOKENIZER, document.tokens, document.weights) for document in documents]
    assert found == [["good[assistant_end]"], ["bad[assistant_end]"]]
    assert needed_fields(spec) == ("better", "worse"), "only these columns of a file are read"
    assert list(texts_of(spec, [row(pair)], where=WHERE)) == ["q", "good"], (
        "a tokenizer is trained on the preferred messages"
    )
    with pytest.raises(BadConfiguration, match=r"\.preference\.chosenField: row 17 .*"):
        build_formatter(spec, TOKENIZER, where=WHERE)(
            [row({"chosen": [user("q"), assistant("good")], "worse": [user("q")]})]
        )


def test_a_preference_is_a_chosen_and_then_a_rejected_document() -> None:
    formatter = build_formatter(FormatSpec(preference=PreferenceFormatSpec()), TOKENIZER, where=WHERE)
    rows = [
        row({"chosen": [], "rejected": []}),
        row({"chosen": [user("q"), assistant("good")], "rejected": [user("q"), assistant("bad")]}),
    ]
    documents = formatter(rows)
    assert [counted(TOKENIZER, document.tokens, document.weights) for document in documents] == [
        ["good[assistant_end]"],
        ["bad[assistant_end]"],
    ]
    assert [document.row for document in documents] == [1, 1]
    with pytest.raises(BadConfiguration, match=r"\.preference\.rejectedField: row 17 .* has no assistant turn"):
        formatter([row({"chosen": [user("q"), assistant("good")], "rejected": [user("q")]})])
    with pytest.raises(BadConfiguration, match=r"\.preference: row 17 .* has one of its two conversations empty"):
        formatter([row({"chosen": [user("q"), assistant("good")], "rejected": []})])


def test_a_first_line_of_a_template_sets_a_variable() -> None:
    template = "{% for one in messages %}{{ one.content }}{% endfor %}{{ ' /no_think' if enable_thinking is false }}"
    for line, expected in (("", "hello"), ("{%- set enable_thinking = false -%}\n", "hello /no_think")):
        made = ChatTemplate(line + template, CHATML_TOKENIZER, "a template", day(None))
        assert made.render([{"role": "user", "content": "hello"}]).text.text == expected
