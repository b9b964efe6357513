"""Any bytes survive the byte tokenizer, and bits per byte can rely on its sizes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from halcyon.data import ByteTokenizer, build_tokenizer
from tests.trainer.data.corpus import TOKENIZER


@given(st.text())
def test_text_comes_back(text: str) -> None:
    tokenizer = ByteTokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.binary())
def test_every_byte_is_one_token(data: bytes) -> None:
    tokenizer = ByteTokenizer()
    tokens = tokenizer.encode(data)
    assert tokens.dtype == np.int32
    assert tokens.tolist() == list(data)
    assert int(tokenizer.token_bytes[tokens].sum()) == len(data)


def test_special_tokens_are_outside_the_text() -> None:
    tokenizer = build_tokenizer(TOKENIZER)
    special = [tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id]
    assert sorted(special) == [256, 257, 258]
    assert tokenizer.vocab_size == 259
    assert tokenizer.token_bytes[special].tolist() == [0, 0, 0]
    assert tokenizer.token_bytes.tolist()[:256] == [1] * 256
    assert tokenizer.decode(np.array([tokenizer.bos_id, 72, 105, tokenizer.eos_id, tokenizer.pad_id])) == "Hi"


def test_broken_utf_8_is_shown_not_raised() -> None:
    assert ByteTokenizer().decode(np.array([0xE2, 0x82])) == "\N{REPLACEMENT CHARACTER}"


def test_the_fingerprint_never_changes() -> None:
    assert ByteTokenizer().fingerprint == "da02de4d7b92ccfffdb09eb5dc18b7268cc09909b503f2281850539e5d03ce10"
