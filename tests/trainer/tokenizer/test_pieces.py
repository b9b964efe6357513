"""The pieces of a text's tokens are its bytes, also where a token ends inside of a character."""

from __future__ import annotations

import pytest

from halcyon.host.storage.store import Store
from halcyon.tokenizer import BYTE, Tokenizer, load
from halcyon.tokenizer.resolve import definition_of
from halcyon.weights.companions import read_companions
from halcyon.weights.folder import folder_place
from tests.trainer.tokenizer.texts import trained
from tests.trainer.weights.folders import GOLDENS

TEXT = "Ünï, 日本語 🙂 and\n\tplain  text 12"


def of_folder() -> Tokenizer:
    definition = definition_of(read_companions(Store(folder_place(str(GOLDENS / "qwen3")))))
    assert definition is not None
    return load(definition)


@pytest.mark.parametrize(
    "make", [lambda: load(BYTE), lambda: load(trained()), of_folder], ids=["byte", "bpe", "tokenizer.json"]
)
def test_pieces_joined_are_the_text(make: object) -> None:
    assert callable(make)
    tokenizer: Tokenizer = make()
    pieces = tokenizer.pieces()
    assert len(pieces) == tokenizer.vocab_size
    assert b"".join(pieces[token] for token in tokenizer.encode(TEXT)) == TEXT.encode()
    assert all(pieces[token] == b"" for token in tokenizer.special_tokens.values())
    assert [len(piece) for piece in pieces] == tokenizer.token_bytes.tolist()
