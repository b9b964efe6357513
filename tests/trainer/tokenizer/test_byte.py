"""The byte tokenizer decodes any bytes to themselves; its ids never change; it gives special tokens only on request."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from halcyon.tokenizer import BYTE, load
from halcyon.tokenizer.rendered import RenderedText

TOKENIZER = load(BYTE)


@given(st.text())
def test_text_comes_back(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@given(st.lists(st.binary()))
def test_every_byte_is_one_token(texts: list[bytes]) -> None:
    for data, tokens in zip(texts, TOKENIZER.encode_batch(texts), strict=True):
        assert tokens.dtype == np.int32
        assert tokens.tolist() == list(data)
        assert int(TOKENIZER.token_bytes[tokens].sum()) == len(data)


def test_the_ids_of_the_special_tokens_stay() -> None:
    assert (TOKENIZER.bos_id, TOKENIZER.eos_id, TOKENIZER.pad_id, TOKENIZER.vocab_size) == (256, 257, 258, 259)
    assert dict(TOKENIZER.special_tokens) == {"<|bos|>": 256, "<|eos|>": 257, "<|pad|>": 258}
    assert TOKENIZER.token_bytes.tolist() == [1] * 256 + [0] * 3


def test_special_tokens_come_only_when_asked_for() -> None:
    assert TOKENIZER.encode("<|bos|>").tolist() == list(b"<|bos|>")
    marked, empty = TOKENIZER.encode_rendered(
        [RenderedText("<|bos|>a<|pad|><|eos|>é", [(0, 7), (8, 15), (15, 22)]), RenderedText("", [])]
    )
    assert marked.tokens.tolist() == [256, 97, 258, 257, 0xC3, 0xA9]
    assert list(zip(marked.starts.tolist(), marked.ends.tolist(), strict=True)) == [
        (0, 7),
        (7, 8),
        (8, 15),
        (15, 22),
        (22, 23),
        (22, 23),
    ]
    assert empty.tokens.tolist() == []
    assert TOKENIZER.decode(np.array([256, 72, 105, 257, 258])) == "Hi"


def test_broken_utf_8_is_shown_not_raised() -> None:
    assert TOKENIZER.decode(np.array([0xE2, 0x82])) == "\N{REPLACEMENT CHARACTER}"


def test_the_fingerprint_never_changes() -> None:
    assert (
        TOKENIZER.fingerprint == BYTE.fingerprint == "47d09e3d5ede6f30dc086b2c71a098f1204dc9f442c74d00bc85359c23ce7532"
    )
