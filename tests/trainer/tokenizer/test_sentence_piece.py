"""SentencePiece models: the ids equal the library's, special tokens come only on request, and long documents may be
cut.
"""

from __future__ import annotations

import io
from functools import cache
from typing import Any

import pytest
import sentencepiece
from hypothesis import given

from halcyon.host.errors import BadConfiguration
from halcyon.tokenizer import TokenizerDefinition, load, resolve
from halcyon.tokenizer.cut import CUT_AT_SPACE
from halcyon.tokenizer.probe import PROSE
from halcyon.tokenizer.rendered import RenderedText
from halcyon.tokenizer.resolve import definition_of
from halcyon.tokenizer.sentence_piece import SentencePieceTokenizer
from halcyon_api.spec.tokenizer import SentencePieceSpec, TokenizerSpec
from tests.trainer.tokenizer.texts import HARD_TEXT, TRAINING


@cache
def model(kind: str, **options: Any) -> bytes:
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for text in TRAINING for line in text.splitlines()] * 3),
        model_writer=written,
        model_type=kind,
        vocab_size=400,
        hard_vocab_limit=False,
        minloglevel=2,
        **{"byte_fallback": True, **options},
    )
    return written.getvalue()


def tokenizer_of(kind: str, **options: Any) -> SentencePieceTokenizer:
    tokenizer = load(TokenizerDefinition("sentencePiece", model(kind, **options)))
    assert isinstance(tokenizer, SentencePieceTokenizer)
    return tokenizer


TOKENIZERS = {kind: tokenizer_of(kind) for kind in ("bpe", "unigram")}
LIBRARY = {kind: sentencepiece.SentencePieceProcessor(model_proto=model(kind)) for kind in TOKENIZERS}


@given(text=HARD_TEXT)
def test_ids_are_those_of_the_library(text: str) -> None:
    for kind, tokenizer in TOKENIZERS.items():
        ids = tokenizer.encode_batch([text, text.encode()])
        assert ids[0].tolist() == ids[1].tolist() == LIBRARY[kind].encode(text)
        assert not set(ids[0].tolist()) & set(tokenizer.special_tokens.values())


def test_bytes_of_a_text_are_counted_with_the_space_before_it() -> None:
    tokenizer = TOKENIZERS["bpe"]
    for text in ("The tokenizer's text", "새로운 글 😀"):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert int(tokenizer.token_bytes[ids].sum()) == len(text.encode()) + 1


def test_the_settings_beside_a_model_say_what_stands_around_a_text() -> None:
    for settings, around in (("{}", ((1,), ())), ('{"add_bos_token": false, "add_eos_token": true}', ((), (2,)))):
        definition = definition_of({"tokenizer.model": model("bpe"), "tokenizer_config.json": settings.encode()})
        assert definition is not None
        tokenizer = load(definition)
        assert (tokenizer.prefix, tokenizer.suffix) == around


def test_tokens_that_only_the_files_beside_a_model_name_have_ids_after_it() -> None:
    size = TOKENIZERS["bpe"].vocab_size
    files = {
        "tokenizer.model": model("bpe"),
        "tokenizer_config.json": b'{"additional_special_tokens": ["<|last|>"], "pad_token": "[PAD]"}',
        "added_tokens.json": b'{"[PAD]": %d, "</s>": 2}' % (size + 1),
    }
    definition = definition_of(files)
    assert definition is not None
    tokenizer = load(definition)
    assert tokenizer.special_tokens.items() >= {("</s>", 2), ("[PAD]", size + 1), ("<|last|>", size + 2)}
    assert (tokenizer.vocab_size, len(tokenizer.pieces()), tokenizer.pad_id) == (size + 3, size + 3, size + 1)
    (found,) = tokenizer.encode_rendered([RenderedText("text<|last|>[PAD]", [(4, 12)])])
    assert found.tokens.tolist().count(size + 2) == 1
    assert size + 1 not in found.tokens, "it is not in a text"
    assert tokenizer.decode(found.tokens) == "text[PAD]"


def test_the_model_says_which_tokens_begin_and_end_a_text() -> None:
    tokenizer = tokenizer_of("bpe", control_symbols="<|bos|>,<|eos|>")
    assert (tokenizer.bos_id, tokenizer.eos_id) == (tokenizer.special_tokens["<s>"], tokenizer.special_tokens["</s>"])
    without = tokenizer_of("bpe", bos_id=-1, control_symbols="<|bos|>")
    assert (without.bos_id, without.prefix) == (None, ())
    assert without.eos_id == without.special_tokens["</s>"]


def test_unknown_characters_after_a_special_token_have_a_token() -> None:
    tokenizer = tokenizer_of("bpe", byte_fallback=False)
    (found,) = tokenizer.encode_rendered([RenderedText("</s>ꙮꙮtext</s>ꙮ", [(0, 4), (10, 14)])])
    tokens = list(zip(found.tokens.tolist(), found.starts.tolist(), found.ends.tolist(), strict=True))
    assert [tokens[0], tokens[1], tokens[-2], tokens[-1]] == [(2, 0, 4), (0, 4, 6), (2, 10, 14), (0, 14, 15)]
    assert tokenizer.decode(found.tokens[2:-2]) == "text"


def test_special_tokens_come_only_when_asked_for() -> None:
    tokenizer = TOKENIZERS["bpe"]
    assert dict(tokenizer.special_tokens) == {"<s>": 1, "</s>": 2}
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, 2)
    assert tokenizer.token_bytes[[0, 1, 2]].tolist() == [0, 0, 0]
    (marked,) = tokenizer.encode_rendered([RenderedText("<s>text</s>", [(0, 3), (7, 11)])])
    assert (marked.tokens[0], marked.tokens[-1]) == (1, 2)
    pieces = [LIBRARY["bpe"].id_to_piece(token) for token in marked.tokens[1:-1].tolist()]
    assert "".join(pieces) == "text", "a space stands only at the beginning of a text"
    (begun,) = tokenizer.encode_rendered([RenderedText("text</s> é", [(4, 8)])])
    first, rest = LIBRARY["bpe"].encode("text"), begun.tokens.tolist()
    assert rest[: len(first) + 1] == [*first, 2]
    assert LIBRARY["bpe"].decode(rest[len(first) + 1 :]) == "é"
    assert (begun.starts[-1], begun.ends[-1]) == (9, 10)
    assert tokenizer.decode(marked.tokens) == "text"


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_long_document_has_the_ids_of_the_whole(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    assert tokenizer._documents.joint is CUT_AT_SPACE
    text = PROSE * 320
    assert len(text) > 2**19
    assert tokenizer.encode(text).tolist() == LIBRARY[kind].encode(text)


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x00" * 100])
def test_a_file_that_is_no_model_is_reported(content: bytes) -> None:
    spec = TokenizerSpec(sentence_piece=SentencePieceSpec(path="some.model"))
    with pytest.raises(
        BadConfiguration, match=r"^spec\.tokenizer\.sentencePiece\.path: this is not a SentencePiece model"
    ):
        load(resolve(spec, lambda uri: content if uri == "some.model" else b"{}"))


def test_a_model_without_the_tokens_of_a_document_is_refused() -> None:
    with pytest.raises(BadConfiguration, match=r"^spec\.tokenizer\.sentencePiece\.end: "):
        tokenizer_of("bpe", bos_id=-1, eos_id=-1)
