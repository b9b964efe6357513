"""Very long documents are cut at places that do not change the tokens, in bounded memory, from strings and from
bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halcyon.tokenizer import load
from halcyon.tokenizer.cut import CUT_AT_SPACE, CUT_BETWEEN, find_joint, pieces
from halcyon.tokenizer.probe import PROSE
from tests.trainer.tokenizer.test_encoders import REFERENCES, TOKENIZERS
from tests.trainer.tokenizer.texts import HARD_TEXT, trained


@given(text=st.lists(HARD_TEXT, max_size=8).map(" word, ".join), size=st.integers(1, 40))
def test_pieces_are_the_text_and_short_and_the_same_from_bytes(text: str, size: int) -> None:
    parts = list(pieces(text, CUT_BETWEEN, size))
    assert "".join(parts) == text
    assert max(map(len, parts)) <= 2 * size
    assert list(pieces(text.encode(), CUT_BETWEEN, size)) == parts
    spaced = list(pieces(text, CUT_AT_SPACE, size))
    assert max(map(len, spaced)) <= 2 * size
    assert len(text) - sum(map(len, spaced)) <= len(spaced) - 1


@given(text=st.lists(HARD_TEXT, max_size=6).map(" word, ".join), size=st.integers(1, 40))
def test_a_cut_at_a_joint_changes_no_ids(text: str, size: int) -> None:
    for tokenizer, reference in ((TOKENIZERS[name], REFERENCES[name]) for name in ("ours", "cl100k", "o200k", "gpt2")):
        parts = list(pieces(text, CUT_BETWEEN, size))
        if all(CUT_BETWEEN.match(left + right, len(left)) for left, right in pairwise(parts)):
            ids = np.concatenate(tokenizer.encode_batch(parts))
            assert ids.tolist() == reference.encode(text, add_special_tokens=False).ids


def test_pieces_do_not_depend_on_how_the_bytes_are_read() -> None:
    text = "한국어 문장, words and 123 numbers.\n" * 20_000
    assert list(pieces(text.encode(), CUT_BETWEEN)) == list(pieces(text, CUT_BETWEEN))
    assert "".join(pieces(text, CUT_BETWEEN)) == text


def test_a_long_document_has_the_ids_of_the_whole() -> None:
    text = PROSE * 280
    assert len(list(pieces(text, CUT_BETWEEN))) > 1
    expected = REFERENCES["ours"].encode(text, add_special_tokens=False).ids
    assert TOKENIZERS["ours"].encode(text).tolist() == expected


def test_invalid_bytes_far_into_a_document_are_reported_where_they_are() -> None:
    data = b"word " * 300_000 + b"\xff" + b"word " * 300_000
    with pytest.raises(UnicodeDecodeError) as caught:
        list(pieces(data, CUT_BETWEEN))
    assert caught.value.start == 1_500_000


@pytest.mark.parametrize("text", ["a" * 600_000, " " * 600_000, "7" * 600_000, "\u0301" * 600_000])
def test_an_endless_word_is_cut_too(text: str) -> None:
    tokenizer = load(trained())
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_chosen_joint_changes_no_tokens() -> None:
    def characters(texts: Sequence[str]) -> list[np.ndarray]:
        return [np.array([ord(character) for character in text]) for text in texts]

    def characters_after_a_space(texts: Sequence[str]) -> list[np.ndarray]:
        return characters([f" {text}" for text in texts])

    assert find_joint(characters, PROSE) is CUT_BETWEEN
    assert find_joint(characters_after_a_space, "some words and some more words " * 20) is CUT_AT_SPACE


@pytest.mark.parametrize("text", ["don't", "e\u0301e\u0301", "na\u0308ive", "12345", "한국어", "\n\n\n", "a\u200db"])
def test_text_that_some_patterns_keep_together_has_no_joint(text: str) -> None:
    assert CUT_BETWEEN.search(text) is None
    assert CUT_AT_SPACE.search(text) is None
