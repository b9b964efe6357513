"""Without generation blocks, what the assistant says is found by rendering: the same tokens count as with blocks."""

from __future__ import annotations

import re
from typing import Any

import pytest

from halcyon.data.formats import build_formatter
from halcyon_api.spec.sources import ChatFormatSpec, FormatSpec
from tests.parity.templates import goldens
from tests.parity.templates.cases import CONVERSATIONS, WITHOUT_BLOCKS
from tests.parity.templates.cases import TEMPLATES as PUBLISHED
from tests.trainer.data.formats.published import formatter_of, tokenizer_of
from tests.trainer.data.formats.standin import MarkedBytes, counted, row

TOKENIZER: Any = MarkedBytes(
    ["<|bos|>", "<|start|>", "<|end|>", "<think>", "</think>", "<|user|>", "<|assistant|>"], bos=256, eos=258
)
TURNS = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}{% "
    "generation %}{{ m.content }}<|end|>{% endgeneration %}{{ '\n' }}{% else %}{{ m.content + '<|end|>\n' }}{% endif "
    "%}{% endfor %}{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
THINKING = (
    "{% for m in messages %}{% set words = m.content %}{% if '</think>' in words %}{% set words = "
    "words.split('</think>')[-1] %}{% endif %}{{ '<|start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}{% "
    "generation %}{% if loop.last %}{{ '<think>\n' + m.reasoning_content | default('') + '\n</think>\n\n' }}{% endif "
    "%}{{ words }}<|end|>{% endgeneration %}{{ '\n' }}{% else %}{{ words }}<|end|>{{ '\n' }}{% endif %}{% endfor %}{% "
    "if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
WITHOUT_END = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' }}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% "
    "endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% "
    "endif %}"
)
TEMPLATES = {"turns": TURNS, "thinking": THINKING, "without an end": WITHOUT_END}
TALKS = {
    "short": [("user", "Hi"), ("assistant", "Hello")],
    "long": [("user", "Hi"), ("assistant", "Hello"), ("user", "Hello"), ("assistant", "Hello"), ("user", "bye")],
    "same words": [("user", "assistant\nHello"), ("assistant", "assistant\n"), ("user", "x"), ("assistant", "x")],
    "empty": [("user", ""), ("assistant", ""), ("user", "a"), ("assistant", " a ")],
    "marks": [
        ("user", "<|end|>"),
        ("assistant", "a<|end|>\n<|start|>user\nb"),
        ("user", "c"),
        ("assistant", "</think>d"),
    ],
}


def spans(template: str, talk: list[tuple[str, str]]) -> list[str]:
    """The stretches of tokens that count in the loss."""
    formatter = build_formatter(
        FormatSpec(chat=ChatFormatSpec(template=template)), TOKENIZER, where="spec.data.sources[a].format"
    )
    messages = [{"role": role, "content": content} for role, content in talk]
    (document,) = formatter([row({"messages": messages})])
    return counted(TOKENIZER, document.tokens, document.weights)


@pytest.mark.parametrize("talk", TALKS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_the_same_tokens_count_as_with_generation_blocks(template: str, talk: str) -> None:
    marked = TEMPLATES[template]
    plain = re.sub(r"{% (end)?generation %}", "", marked)
    assert spans(plain, TALKS[talk]) == spans(marked, TALKS[talk])


@pytest.mark.parametrize("template", PUBLISHED)
def test_templates_of_every_family_need_no_blocks(template: str) -> None:
    """`with` has the scope and the white space of a generation block."""
    plain = re.sub(r"(?<={%)(-?) (end)?generation (?=-?%})", r"\1 \2with ", PUBLISHED[template])
    assert plain.count("with ") > plain.count("endwith ") > 0
    differs = []
    for name, conversation in CONVERSATIONS.items():
        if "error" in goldens.read("gpt2")["cases"][template][name]:
            continue
        found = [
            formatter_of(tokenizer_of("gpt2"), source)([row(conversation)])[0]
            for source in (plain, PUBLISHED[template])
        ]
        assert found[0].tokens.tolist() == found[1].tokens.tolist()
        differs += [name] * (found[0].weights.tolist() != found[1].weights.tolist())
    _, expected = WITHOUT_BLOCKS.get(template, ("", ()))
    assert sorted(differs) == sorted(expected)


def test_a_token_that_ends_answers_counts_even_if_it_begins_the_next_turn() -> None:
    """As in GLM: `<|user|>` ends the assistant's turn, and generation_config.json says so."""
    plain = re.sub(r"{% (end)?generation %}", "", WITHOUT_END)
    tokenizer: Any = MarkedBytes(list(TOKENIZER.special_tokens), bos=256, eos=258)
    tokenizer.ends = (258, tokenizer.special_tokens["<|user|>"])
    formatter = build_formatter(
        FormatSpec(chat=ChatFormatSpec(template=plain)), tokenizer, where="spec.data.sources[a].format"
    )
    talk = [{"role": role, "content": role[0]} for role in ("user", "assistant", "user", "assistant")]
    (document,) = formatter([row({"messages": talk})])
    assert counted(tokenizer, document.tokens, document.weights) == ["a[user]", "a"]
