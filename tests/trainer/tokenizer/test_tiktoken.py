"""tiktoken's encodings: their constants and ids equal the library's."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
import tiktoken
import tiktoken_ext.openai_public as library
from hypothesis import given

from halcyon.host.errors import BadConfiguration
from halcyon.tokenizer import TokenizerDefinition, load, resolve
from halcyon.tokenizer.encoders import FastEncoder
from halcyon.tokenizer.rendered import Spellings
from halcyon.tokenizer.tiktoken_encodings import ENCODINGS
from halcyon.tokenizer.tiktoken_ranks import TiktokenTokenizer
from halcyon_api.spec.tokenizer import TiktokenSpec, TokenizerSpec
from tests.trainer.tokenizer.texts import HARD_TEXT, TRAINING


def small_ranks(words: Iterable[str]) -> dict[bytes, int]:
    """The 256 bytes and all prefixes of the words, shortest first: each merges from the next shorter prefix and a
    byte.
    """
    beginnings = {word.encode()[:length] for word in words for length in range(2, len(word.encode()) + 1)}
    return {
        data: rank
        for rank, data in enumerate(
            [*(bytes([byte]) for byte in range(256)), *sorted(beginnings, key=lambda data: (len(data), data))]
        )
    }


RANKS = small_ranks(word for text in TRAINING for word in re.findall(r"\s?\w+|\W+", text))
CONTENT = b"".join(base64.b64encode(data) + f" {rank}\n".encode() for data, rank in RANKS.items())


def tokenizer_of(encoding: str) -> TiktokenTokenizer:
    tokenizer = load(TokenizerDefinition("tiktoken", CONTENT, {"encoding": encoding}))
    assert isinstance(tokenizer, TiktokenTokenizer)
    return tokenizer


TOKENIZERS = {name: tokenizer_of(name) for name in ("r50k_base", "cl100k_base", "o200k_base")}


@pytest.mark.parametrize("name", ["gpt2", "r50k_base", "p50k_base", "cl100k_base", "o200k_base"])
def test_the_constants_of_an_encoding_are_those_of_the_library(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, str] = {}

    def load_ranks(url: str, expected_hash: str) -> dict[bytes, int]:
        asked[url] = expected_hash
        return {}

    monkeypatch.setattr(library, "load_tiktoken_bpe", load_ranks)
    monkeypatch.setattr(library, "data_gym_to_mergeable_bpe_ranks", lambda **_: {})
    facts = getattr(library, name)()
    assert dict(ENCODINGS[name].special_tokens) == facts["special_tokens"]
    if name != "gpt2":
        assert asked == {ENCODINGS[name].url: ENCODINGS[name].sha256}
    if name == "o200k_base":
        assert ENCODINGS[name].pattern == facts["pat_str"]


@given(text=HARD_TEXT)
def test_ids_are_those_of_the_library_with_its_own_pattern(text: str) -> None:
    for name, tokenizer in TOKENIZERS.items():
        ids = tokenizer.encode(text)
        assert ids.tolist() == LIBRARY[name].encode_ordinary(text)
        assert tokenizer.decode(ids) == text
        assert int(tokenizer.token_bytes[ids].sum()) == len(text.encode())


def library_encoding(name: str) -> tiktoken.Encoding:
    """The encoding as the library defines it, with the few ranks of this test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "load_tiktoken_bpe", lambda *_, **__: RANKS)
        facts = getattr(library, name)()
    return tiktoken.Encoding(
        facts["name"], pat_str=facts["pat_str"], mergeable_ranks=RANKS, special_tokens=facts["special_tokens"]
    )


LIBRARY = {name: library_encoding(name) for name in TOKENIZERS}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_fast_encoder_is_in_use(name: str) -> None:
    assert isinstance(TOKENIZERS[name]._encode_pieces, FastEncoder)


def test_special_tokens_come_only_when_asked_for() -> None:
    tokenizer = TOKENIZERS["cl100k_base"]
    text = "a<|endoftext|>b<|fim_prefix|>"
    assert not set(tokenizer.encode(text).tolist()) & set(tokenizer.special_tokens.values())
    (marked,) = tokenizer.encode_rendered([Spellings(tokenizer.special_tokens).rendered(text)])
    assert marked.tokens.tolist() == LIBRARY["cl100k_base"].encode(text, allowed_special="all")
    assert tokenizer.decode(marked.tokens) == "ab"
    assert tokenizer.bos_id == tokenizer.eos_id == tokenizer.pad_id == 100257
    assert tokenizer.vocab_size == 100277


def test_ranks_come_from_the_path_or_where_tiktoken_keeps_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spec(path: str | None = None) -> TokenizerSpec:
        return TokenizerSpec(tiktoken=TiktokenSpec(encoding="gpt2", path=path))

    def refuse(uri: str) -> bytes:
        raise FileNotFoundError(2, "No such file or directory", uri)

    named = resolve(spec("ranks.tiktoken"), {"ranks.tiktoken": CONTENT}.__getitem__)
    assert named == TokenizerDefinition("tiktoken", CONTENT, {"encoding": "r50k_base"})
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    with pytest.raises(
        BadConfiguration,
        match=r"^spec\.tokenizer\.tiktoken\.path: https://.*cannot be read \(No such file or directory\)",
    ):
        resolve(spec(), refuse)
    with pytest.raises(
        BadConfiguration, match=r"^spec\.tokenizer\.tiktoken\.path: the download from https://.* is not the known file"
    ):
        resolve(spec(), lambda _: CONTENT)
    url = ENCODINGS["gpt2"].url
    monkeypatch.setitem(
        ENCODINGS,  # pyright: ignore[reportArgumentType]
        "gpt2",
        type(ENCODINGS["gpt2"])(
            ENCODINGS["gpt2"].pattern, {"<|endoftext|>": 50256}, url, hashlib.sha256(CONTENT).hexdigest()
        ),
    )
    (tmp_path / hashlib.sha1(url.encode(), usedforsecurity=False).hexdigest()).write_bytes(CONTENT)
    assert resolve(spec(), refuse) == named


@pytest.mark.parametrize("content", [b"", b"x", b"!!!! 1\n", b"YQ== one\n", b"YQ== 0\n"])
def test_a_file_without_ranks_is_reported(content: bytes) -> None:
    with pytest.raises(BadConfiguration, match=r"^spec\.tokenizer\.tiktoken\.path: "):
        load(TokenizerDefinition("tiktoken", content, {"encoding": "cl100k_base"}))
