# ruff: noqa: RUF001, SIM905 - ambiguous characters are intended here
"""Texts for training small tokenizers, and texts that are hard to encode."""

from __future__ import annotations

from functools import cache

from hypothesis import strategies as st

from halcyon.tokenizer import TokenizerDefinition
from halcyon.tokenizer.bpe import train_bpe

TRAINING = [
    "The tokenizer's training text: it's small, but it has words and numbers (12, 123, 1234) and spaces.\n",
    "def encode(text: str) -> list[int]:\n    return [merge(part) for part in split(text)]  # don't cut words\n\n\n",
    "안녕하세요 세계, 토큰을 나누는 시험입니다. 日本語の文章もあります。Ещё немного текста по-русски, раз-два-три. naïve café\n",
    "    \t  \r\n  \n\n\n   aaaa    bbbb ---- ==== !!!! ,.;: THEY'LL I'M we've 2026-11-20 3.14159 ½ ٣٤ 😀 👍🏽\n",
] * 3

_PARTS = (
    "'s¦'LL¦'ſ¦’t¦ ¦  ¦\t¦\n¦\r\n¦\r¦\u00a0¦\u3000¦\u2028¦\u0085¦a¦the¦ "
    "the¦Ab¦naïve¦e\u0301¦\u0301¦\u200d¦1¦12¦123456¦٣¦½¦Ⅻ¦𝟘¦!¦...¦--¦_¦/¦<|bos|>¦<|¦|>¦한국¦字¦。¦😀¦👍🏽¦🇰🇷¦\U0001fae9¦\x00¦\x7f¦\ufeff¦\uffff¦\U0010ffff¦İ¦ß¦K¦ǅ¦ʼn¦नि¦ไทย¦שלום¦ـ"
).split("¦")
HARD_TEXT = st.lists(st.one_of(st.sampled_from(_PARTS), st.text(max_size=3)), max_size=40).map("".join)
"""Texts of the parts that matter to split patterns, merges and special tokens, and of any other characters."""


@cache
def trained() -> TokenizerDefinition:
    """A tokenizer of 512 tokens."""
    return train_bpe(TRAINING, 512, ["<|more|>"])
