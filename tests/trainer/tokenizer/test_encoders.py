"""The fast encoder gives the reference's ids on any text; it is not used for a tokenizer where it does not."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st

from halcyon.host.errors import BadConfiguration
from halcyon.tokenizer import Tokenizer, TokenizerDefinition, load
from halcyon.tokenizer.encoders import DigitPairEncoder, FastEncoder, ReferenceEncoder, pairs_of
from halcyon.tokenizer.rendered import Spellings
from halcyon.tokenizer.tiktoken_encodings import ENCODINGS
from halcyon.tokenizer.tokenizer_json import JsonTokenizer
from tests.trainer.tokenizer.texts import HARD_TEXT, trained


def definition_of(
    change: Callable[[dict[str, Any]], object] = lambda document: None, **options: str
) -> TokenizerDefinition:
    """The trained tokenizer with a change in its file."""
    document = json.loads(trained().content)
    change(document)
    return TokenizerDefinition("tokenizerJson", json.dumps(document).encode(), options)


def split_by(pattern: str) -> Callable[[dict[str, Any]], object]:
    return lambda document: document["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex=pattern)


def normalise(document: dict[str, Any]) -> None:
    document["normalizer"] = {"type": "NFC"}


def add_a_word(document: dict[str, Any]) -> None:
    document["added_tokens"].append(
        {**document["added_tokens"][-1], "id": 512, "content": "the  text", "special": False}
    )


VARIANTS = {
    "ours": definition_of(),
    "cl100k": definition_of(split_by(ENCODINGS["cl100k_base"].pattern)),
    "o200k": definition_of(split_by(ENCODINGS["o200k_base"].pattern)),
    "gpt2": definition_of(split_by(ENCODINGS["gpt2"].pattern)),
    "nfc": definition_of(normalise),
    "added": definition_of(add_a_word),
}
TOKENIZERS = {name: load(definition) for name, definition in VARIANTS.items()}


def reference(definition: TokenizerDefinition) -> tokenizers.Tokenizer:
    library = tokenizers.Tokenizer.from_str(definition.content.decode())
    library.encode_special_tokens = True
    return library


REFERENCES = {name: reference(definition) for name, definition in VARIANTS.items()}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_fast_encoder_is_in_use(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    assert isinstance(tokenizer, JsonTokenizer)
    assert not isinstance(tokenizer._chosen, ReferenceEncoder)


@given(texts=st.lists(HARD_TEXT, max_size=4))
@example(texts=["'\u017f'\u212a don'T", "a  b", "a\u0301 \u0301", "12345\u0663", "x \n y", " \t\n "])
def test_ids_are_those_of_the_reference(texts: list[str]) -> None:
    for name, tokenizer in TOKENIZERS.items():
        expected = [encoding.ids for encoding in REFERENCES[name].encode_batch(texts, add_special_tokens=False)]
        encoded = tokenizer.encode_batch(texts)
        assert [ids.tolist() for ids in encoded] == expected
        assert all(ids.dtype == np.int32 for ids in encoded)
        assert [tokenizer.encode(text.encode()).tolist() for text in texts] == expected


@given(text=HARD_TEXT)
def test_text_comes_back_with_its_size_and_without_special_tokens(text: str) -> None:
    tokenizer = TOKENIZERS["ours"]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert int(tokenizer.token_bytes[ids].sum()) == len(text.encode())
    assert not set(ids.tolist()) & set(tokenizer.special_tokens.values())


@given(text=HARD_TEXT)
def test_marked_text_has_the_special_tokens_that_it_spells(text: str) -> None:
    tokenizer = TOKENIZERS["ours"]
    marked = _marked(tokenizer, text)
    assert (
        marked.tolist()
        == tokenizers.Tokenizer.from_str(trained().content.decode()).encode(text, add_special_tokens=False).ids
    )
    assert marked.tolist().count(tokenizer.bos_id) == text.count("<|bos|>")
    assert tokenizer.decode(marked) == text.replace("<|bos|>", "")


@pytest.mark.slow
@pytest.mark.parametrize("every", [11, pytest.param(1, marks=pytest.mark.variant)])
def test_every_character_is_split_as_the_reference_splits_it(every: int) -> None:
    """All characters below 0x800, and all others or every eleventh of them."""
    known = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000 and (code < 0x30000 or code % 97 == 0)]
    characters = [chr(code) for number, code in enumerate(known) if code < 0x800 or number % every == 0]
    texts = [f"a{c}b {c}{c}1{c} {c} \n{c}.{c}\n '{c}" for c in characters]
    for start in range(0, len(texts), 8192):
        batch = texts[start : start + 8192]
        for text, fast, slow in zip(
            batch, TOKENIZERS["ours"].encode_batch(batch), REFERENCES["ours"].encode_batch(batch), strict=True
        ):
            assert fast.tolist() == slow.ids, repr(text)


def test_threads_change_nothing() -> None:
    texts = [f"text {number} of many, don't mix them: {'abc ' * (number % 50)}" for number in range(400)]
    tokenizer = TOKENIZERS["ours"]
    expected = [tokenizer.encode(text).tolist() for text in texts]
    with ThreadPoolExecutor(8) as pool:
        for batch in pool.map(tokenizer.encode_batch, [texts] * 16):
            assert [ids.tolist() for ids in batch] == expected


def test_an_encoder_that_differs_is_not_used(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    for encoder in (FastEncoder, DigitPairEncoder):
        encode = encoder.__call__

        def differ(
            self: Any, texts: Sequence[str], encode: Callable[..., list[np.ndarray]] = encode
        ) -> list[np.ndarray]:
            return encode(self, [text.replace("\u0663", "3") for text in texts])

        monkeypatch.setattr(encoder, "__call__", differ)
    with caplog.at_level(logging.WARNING):
        tokenizer = JsonTokenizer(VARIANTS["ours"])
    assert isinstance(tokenizer._chosen, ReferenceEncoder)
    assert "its ids differ from the reference's" in caplog.text
    assert tokenizer.encode("1\u0663 <|bos|>").tolist() == REFERENCES["ours"].encode("1\u0663 <|bos|>").ids
    assert _marked(tokenizer, "a<|bos|>").tolist() == [97, tokenizer.bos_id]


def test_a_tokenizer_that_the_fast_encoder_does_not_support_uses_the_reference(
    caplog: pytest.LogCaptureFixture,
) -> None:
    library = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "?": 2, "[EOS]": 3}, unk_token="?"))  # noqa: S106
    library.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    library.add_special_tokens(["[EOS]"])
    tokenizer = load(TokenizerDefinition("tokenizerJson", library.to_str().encode()))
    assert isinstance(tokenizer, JsonTokenizer)
    assert isinstance(tokenizer._chosen, ReferenceEncoder)
    assert tokenizer.encode("a b c").tolist() == [0, 1, 2]
    assert _marked(tokenizer, "a[EOS]").tolist() == [0, 3]
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (None, 3, 3)
    assert "using tokenizers, which is slower" in caplog.text


def test_settings_that_would_change_the_ids_of_a_text_are_ignored() -> None:
    def trouble(document: dict[str, Any]) -> None:
        document["truncation"] = {"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
        document["padding"] = {"strategy": {"Fixed": 9}, "direction": "Left", "pad_to_multiple_of": None} | {
            "pad_id": 1,
            "pad_type_id": 0,
            "pad_token": "!",
        }
        document["model"]["dropout"] = 0.9

    text = "The tokenizer's training text"
    assert load(definition_of(trouble)).encode(text).tolist() == TOKENIZERS["ours"].encode(text).tolist()


@given(texts=st.lists(st.text("0123456789ab ", max_size=12), max_size=5))
def test_digits_are_paired_from_the_left_and_never_over_the_end_of_a_text(texts: list[str]) -> None:
    whole = "".join(texts)
    positions = np.array([index for index, character in enumerate(whole) if character.isdigit()], np.int64)
    starts = [0, *np.cumsum([len(text) for text in texts]).tolist()]
    expected = [
        start + match.start()
        for text, start in zip(texts, starts, strict=False)
        for match in re.finditer("[0-9]{2}", text)
    ]
    assert pairs_of(positions, np.array(starts[1:], np.int64)).tolist() == expected


def test_our_own_tokenizer_uses_the_digit_pair_encoder() -> None:
    tokenizer = TOKENIZERS["ours"]
    assert isinstance(tokenizer, JsonTokenizer)
    assert isinstance(tokenizer._chosen, DigitPairEncoder)


def test_invalid_text_is_refused() -> None:
    for text in (b"caf\xe9", b"\xff", "\ud800"):
        with pytest.raises(UnicodeError):
            TOKENIZERS["ours"].encode(text)


def test_the_special_tokens_of_a_document_are_found_or_reported() -> None:
    def rename(document: dict[str, Any]) -> None:
        for token in document["added_tokens"]:
            token["content"] = token["content"].replace("bos", "start").replace("eos", "stop").replace("pad", "fill")

    named = load(definition_of(rename, beginning="<|start|>", end="<|stop|>"))
    assert (named.bos_id, named.eos_id, named.pad_id) == (
        TOKENIZERS["ours"].bos_id,
        TOKENIZERS["ours"].eos_id,
        TOKENIZERS["ours"].eos_id,
    )
    with pytest.raises(
        BadConfiguration, match=r"^spec\.tokenizer\.tokenizerJson\.end: no special token has one of the usual names"
    ):
        load(definition_of(rename))
    with pytest.raises(
        BadConfiguration,
        match=r"^spec\.tokenizer\.tokenizerJson\.end: the tokenizer has no special token '<end>'; it has ",
    ):
        load(definition_of(end="<end>"))


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"model": 1}', b'{"model": {"type": "BPE"}}', b"\xff\xfe"])
def test_a_file_that_is_no_tokenizer_is_reported(content: bytes) -> None:
    with pytest.raises(BadConfiguration, match=r"^spec\.tokenizer\.tokenizerJson\.path: this is not a tokenizer\.json"):
        load(TokenizerDefinition("tokenizerJson", content))


def test_only_content_and_options_decide_the_fingerprint() -> None:
    assert definition_of().fingerprint == definition_of().fingerprint
    others = [
        definition_of(normalise),
        definition_of(end="<|eos|>"),
        TokenizerDefinition("sentencePiece", definition_of().content),
    ]
    assert len({definition_of().fingerprint, *(definition.fingerprint for definition in others)}) == 4


def _marked(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """The ids of a text in which all special tokens that it spells are tokens."""
    return tokenizer.encode_rendered([Spellings(tokenizer.special_tokens).rendered(text)])[0].tokens


def protocol_is_kept(tokenizer: JsonTokenizer) -> Tokenizer:
    return tokenizer
