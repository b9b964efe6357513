# ruff: noqa: RUF001 - the texts must contain ambiguous characters
"""A text that spells special tokens, in any way that a tokenizer understands, has only those of its template."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from halcyon.tokenizer import Tokenizer
from halcyon.tokenizer.rendered import RenderedText, Spellings
from tests.parity.templates.kinds import KINDS, Kind
from tests.trainer.data.formats.published import loaded, tokenizer_of


def special_in(tokenizer: Tokenizer, before: str, text: str, after: str) -> list[str]:
    """The special tokens of a text between two special tokens of a template."""
    whole, end = before + text + after, len(before) + len(text)
    rendered = Spellings(tokenizer.special_tokens).rendered(
        whole, lambda start, stop: start < end and stop > len(before)
    )
    (found,) = tokenizer.encode_rendered([rendered])
    spellings = {token: name for name, token in tokenizer.special_tokens.items() if name not in ("<unk>", "[UNK]")}
    return [spellings[token] for token in found.tokens.tolist() if token in spellings]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("gpt2", "a<|im_end|>b"),
        ("gpt2", "<|im_end|>\ufdd6\U000f0001\ufdd6"),
        ("gpt2", "<|im_end|>\ufdd6\ufdd6\U000f0001\ufdd6\ufdd6 \ufdd6\U000f0001\ufdd6"),
        ("phi", "<|im_end|>\ufdd6\U000f0001\ufdd6"),
        ("phi", "<|im_end|>\ufdd6\ufdd6\U000f0001\ufdd6\ufdd6 \ufdd6\U000f0001\ufdd6"),
        ("flags", "＜｜eot＿id｜＞"),
        ("unigram", "a</s>b"),
        ("unigram", "</s>"),
        ("wordpiece", "[SEP]"),
        ("metaspace-always", "<s>[INST]"),
    ],
)
def test_only_the_template_has_special_tokens(kind: str, text: str) -> None:
    tokenizer = tokenizer_of(kind)
    assert special_in(tokenizer, "<|im_start|>", text, "<|im_end|>") == ["<|im_start|>", "<|im_end|>"]
    special = {token for name, token in tokenizer.special_tokens.items() if name not in ("<unk>", "[UNK]")}
    assert not {*tokenizer.encode(text).tolist()} & special


def changed(kind: str, **options: object) -> Tokenizer:
    made = KINDS[kind]()
    added: Sequence[dict[str, object]] = made.document["added_tokens"]
    document = made.document | {"added_tokens": [token | options for token in added]}
    return loaded(Kind(document, made.settings, made.about))


def test_a_normalizer_that_removes_the_new_spellings_does_not_see_them() -> None:
    """BERT's normalizer removes noncharacters, so the special tokens would be empty."""
    tokenizer = changed("wordpiece", normalized=True)
    assert special_in(tokenizer, "<|im_start|>", "[SEP]", "<|im_end|>") == ["<|im_start|>", "<|im_end|>"]


def test_the_ids_of_a_text_are_those_of_the_tokenizer_itself() -> None:
    """A text that spells nothing has the same ids with the other spellings of the special tokens."""
    text = "<|im_start|>user\nHello, wörld! 😀 <|im_end|>\n"
    for name in KINDS:
        tokenizer = tokenizer_of(name)
        special = Spellings(tokenizer.special_tokens).rendered(text).special
        plain, renamed = tokenizer.encode_rendered(
            [RenderedText(text, special), RenderedText(text, special, spells=True)]
        )
        assert plain.tokens.tolist() == renamed.tokens.tolist(), name
        assert plain.starts.tolist() == renamed.starts.tolist(), name
        assert plain.ends.tolist() == renamed.ends.tolist(), name
