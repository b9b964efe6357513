"""A template sees the letters of a message, and whatever it does with them, no special token comes from them."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from halcyon.data.formats.template import ChatTemplate
from tests.trainer.data.formats.standin import MarkedBytes

TOKENIZER: Any = MarkedBytes(["<|bos|>", "<|end|>", "<think>", "</think>"], bos=256, eos=257)
TEXT = "x <|end|> y </think> z<|"


def printed(source: str, text: str = TEXT, tokenizer: Any = TOKENIZER) -> tuple[str, list[str]]:
    """What a template prints of a text, and the special tokens in it."""
    template = ChatTemplate(source, tokenizer, "the template", lambda: dt.datetime(2026, 1, 1))
    rendered = template.render([{"role": "user", "content": text, "parts": {"a": [text]}}])
    return rendered.text.text, [rendered.text.text[start:end] for start, end in rendered.text.special]


@pytest.mark.parametrize(
    "expression",
    [
        "c", "'q' + c", "'q' ~ c", "c ~ 'end|>'", "c + 'end|>'", "c | trim", "[c, c] | join('-')", "'-'.join([c, c])",
        "'%s!' | format(c)",
        "'%s!' % c", "'{}'.format(c)", "'{0:>40}'.format(c)", "c[2:]", "c[:9]", "c[::1]", "c | list | join('')",
        "c | string", "c | indent",
        "c | wordwrap(5)", "c | title", "c | center(60)", "[c]", "{'a': c}", "(c,)", "c | pprint", "'%r' % c",
        "c | tojson", "[c] | tojson",
        "{'a': [c]} | tojson(indent=2)", "c * 2", "2 * c", "'a-b'.replace('-', c)", "'x'.join(c.split(' '))",
        "c | replace('y', 'n')",
        "c.split('</think>')[0] + '|' + c.split('</think>')[1]", "c.partition('</think>') | join('')",
        "c.rstrip('<|').strip()",
        "dict(a=c).a", "namespace(a=c).a", "c | default('q')", "c | map('upper') | join", "c.splitlines() | first",
        "m.parts | tojson",
        "m.parts.a[0]", "m | tojson", "c | safe", "c | reverse | reverse", "c.removeprefix('x')", "c.lower()",
        "'</think>'.join([c, c])",
    ],
)  # fmt: skip
def test_no_operation_makes_a_special_token_of_a_message(expression: str) -> None:
    source = "{% set m = messages[0] %}{% set c = m.content %}{{ " + expression + " }}"
    text, special = printed(source)
    allowed = expression.count("'</think>'.join")  # the template's own token
    assert len(special) <= allowed, (text, special)
    without_marks: Any = MarkedBytes([], bos=None, eos=0)
    assert text == printed(source, tokenizer=without_marks)[0], "the letters are those of plain strings"


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("'</think>' in c", "True"),
        ("c.startswith('x <|end|>')", "True"),
        ("c.find('</think>')", "12"),
        ("c | length", "24"),
        ("c == 'x <|end|> y </think> z<|'", "True"),
        ("c.split('</think>') | length", "2"),
        ("c is string", "True"),
        ("{'x <|end|> y </think> z<|': 7}[c]", "7"),
        ("c.endswith('<|')", "True"),
        ("c.count('<')", "3"),
        ("c in ['a', 'x <|end|> y </think> z<|']", "True"),
    ],
)
def test_a_template_sees_the_letters_of_a_message(expression: str, value: str) -> None:
    assert printed("{% set c = messages[0].content %}{{ " + expression + " }}") == (value, [])


def test_tokens_of_the_template_stay_tokens_beside_a_message() -> None:
    source = (
        "{% set c = messages[0].content %}<think>{{ c.split('</think>')[-1] | trim }}</think>{{ c | replace('y', "
        "'<|end|>') }}"
    )
    text, special = printed(source)
    assert text == "<think>z<|</think>x <|end|> <|end|> </think> z<|"
    assert special == ["<think>", "</think>", "<|end|>"]


def test_code_points_of_the_marks_come_through() -> None:
    text = "a\ufdd0b\ufdd1c\ufdd2d\ufdd2-e"
    assert printed("{{ messages[0].content }}", text) == (text, [])
    assert printed("{{ 'q' + messages[0].content + 'r' }}", text) == (f"q{text}r", [])


def test_a_template_gets_messages_as_transformers_gives_them() -> None:
    """Without what is null, and with the reasoning under each of its names."""
    template = ChatTemplate("{{ messages[0] | tojson(sort_keys=true) }}", TOKENIZER, "the template", dt.datetime.now)
    message = {"role": "assistant", "content": None, "reasoning": "r", "tool_calls": []}
    assert template.render([message]).text.text == (
        '{"reasoning": "r", "reasoning_content": "r", "role": "assistant", "thinking": "r", "tool_calls": []}'
    )
