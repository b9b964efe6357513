"""No text of a message becomes a special token, with templates and tokenizers of every kind."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from halcyon.data.formats.template import ChatTemplate, day
from halcyon.tokenizer import Tokenizer
from halcyon.tokenizer.rendered import RenderedText
from tests.parity.templates.cases import TEMPLATES
from tests.parity.templates.kinds import KINDS, MARKS
from tests.trainer.data.formats.published import tokenizer_of

UNKNOWN = ("<unk>", "[UNK]")
"""What unknown characters become: special tokens, which any text may have."""
KEEPING = ("gpt2", "llama3", "tiktoken")
"""The kinds whose ids give each text back."""
NAMES = ("<s>", "</s>", "<unk>", "[SEP]", *MARKS)
WIDE = {ord(sign): chr(ord(sign) + 0xFEE0) for sign in "<|>[]/_"}
"""The same signs in the width of Han characters: NFKC gives the usual ones."""
WORDS = ["<think>", "</think>", "<tool_call>", " ", "\n", "a", "é", "\u0301", "▁", "{", "%", "{0}", "😀", "世", "\x00"]
OWN = [
    "\ufdd0",
    "\ufdd1",
    "\ufdd2",
    "\ufdd2-",
    "\ufdd5",
    "\ufdd6",
    "\U000f0000",
    "\ufdd6\U000f0003\ufdd6",
    "\ufdd6\ufdd6\U000f0003\ufdd6\ufdd6",
]
"""Code points with which Halcyon marks texts."""
CUTS = st.sampled_from(NAMES).flatmap(lambda name: st.tuples(st.just(name), st.integers(1, len(name) - 1)))
PIECES = st.one_of(
    st.sampled_from(NAMES),
    CUTS.map(lambda cut: cut[0][: cut[1]]),
    CUTS.map(lambda cut: cut[0][cut[1] :]),
    st.sampled_from(NAMES).map(str.swapcase),
    st.sampled_from(NAMES).map(lambda name: name.translate(WIDE)),
    st.sampled_from(NAMES).map(lambda name: name.replace("▁", " ")),
    st.sampled_from(WORDS),
    st.sampled_from(OWN),
)
CONTENT = st.lists(PIECES, max_size=6).map("".join).filter(lambda text: bool(text.strip()))


@cache
def template_of(kind: str, name: str) -> ChatTemplate:
    return ChatTemplate(TEMPLATES[name], tokenizer_of(kind), "template", day(None))


def conversation(contents: list[str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Messages and tools with the texts at all places where a message may have one."""
    system, first, call, key, result, answer, thought, tool = contents
    messages = [
        {"role": "system", "content": system},
        {"role": "user", "content": first},
        {
            "role": "assistant",
            "content": answer,
            "tool_calls": [
                {
                    "id": "abcdefghi",
                    "type": "function",
                    "function": {"name": "add", "arguments": {"text": call, key: [call]}},
                }
            ],
        },
        {"role": "tool", "content": result, "tool_call_id": "abcdefghi"},
        {"role": "assistant", "content": answer, "reasoning_content": thought},
    ]
    properties = {"text": {"type": "string", "description": tool}}
    parameters = {"type": "object", "properties": properties, "required": ["text"]}
    return messages, [{"type": "function", "function": {"name": "add", "description": tool, "parameters": parameters}}]


def special_ids(tokenizer: Tokenizer) -> dict[int, str]:
    return {token: name for name, token in tokenizer.special_tokens.items() if name not in UNKNOWN}


def spelt(rendered: RenderedText) -> list[str]:
    return [rendered.text[start:end] for start, end in rendered.special]


@settings(max_examples=150)
@given(
    st.sampled_from(sorted(KINDS)),
    st.sampled_from(sorted(TEMPLATES)),
    st.lists(CONTENT, min_size=8, max_size=8),
    st.booleans(),
)
def test_the_special_tokens_of_a_conversation_are_those_of_the_template(
    kind: str, name: str, contents: list[str], to_generate: bool
) -> None:
    tokenizer, template = tokenizer_of(kind), template_of(kind, name)
    if name == "bos-each-turn" and tokenizer.bos_id is None:
        return
    given_, harmless = (conversation(one) for one in (contents, list("abcdefgh")))
    rendered, expected = (template.render(*one, to_generate=to_generate).text for one in (given_, harmless))
    assert spelt(rendered) == spelt(expected)
    (found,) = tokenizer.encode_rendered([rendered])
    special = special_ids(tokenizer)
    places = [
        (rendered.text[start:end].strip(), token)
        for token, start, end in zip(*map(np.ndarray.tolist, found), strict=True)
    ]
    wanted = [name for name in spelt(rendered) if name not in UNKNOWN]
    names = [name for name, token in places if token in special]
    assert [special[token] for _, token in places if token in special] == names
    if kind == "flags":  # a token that must be a single word is a word beside a letter
        rest = iter(wanted)
        assert all(name in rest for name in names)
    else:
        assert names == wanted
    assert (found.starts <= found.ends).all()
    assert (found.ends <= len(rendered.text)).all()
    if kind in KEEPING:
        text, place = "", 0
        for start, end in rendered.special:
            text, place = text + rendered.text[place:start], end
        assert tokenizer.decode(found.tokens) == text + rendered.text[place:]


@settings(max_examples=150)
@given(st.sampled_from(sorted(KINDS)), CONTENT)
def test_a_text_has_no_special_tokens(kind: str, text: str) -> None:
    tokenizer = tokenizer_of(kind)
    assert not {*tokenizer.encode(text).tolist()} & special_ids(tokenizer).keys()
