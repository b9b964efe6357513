"""The definition does not depend on the file's place, and a file that cannot be read is reported in one sentence."""

from __future__ import annotations

import pytest

from halcyon.errors import BadConfiguration
from halcyon.tokenizer import BYTE, resolve
from halcyon_api.spec.tokenizer import BpeTokenizerSpec, ByteTokenizerSpec, TokenizerJsonSpec, TokenizerSpec
from tests.trainer.tokenizer.texts import trained


def json_spec(path: str, end: str | None = None) -> TokenizerSpec:
    return TokenizerSpec(tokenizer_json=TokenizerJsonSpec(path=path, end=end))


def test_the_place_of_the_file_does_not_matter() -> None:
    asked: list[str] = []

    def fetch(uri: str) -> bytes:
        asked.append(uri)
        return trained().content

    found = [resolve(json_spec(path), fetch) for path in ("a/my.json", "hf://owner/name", "s3://bucket/folder/")]
    assert asked == ["a/my.json", "hf://owner/name/tokenizer.json", "s3://bucket/folder/tokenizer.json"]
    assert len({definition.fingerprint for definition in found}) == 1
    assert resolve(json_spec("x", end="<|eos|>"), fetch).fingerprint != found[0].fingerprint


def test_bytes_need_no_file_and_bpe_needs_training() -> None:
    def fetch(uri: str) -> bytes:
        raise AssertionError(uri)

    assert resolve(TokenizerSpec(byte=ByteTokenizerSpec()), fetch) is BYTE
    with pytest.raises(TypeError, match="has to be trained"):
        resolve(TokenizerSpec(bpe=BpeTokenizerSpec()), fetch)


def test_a_file_that_cannot_be_read_is_reported() -> None:
    def fetch(uri: str) -> bytes:
        raise PermissionError(13, "Permission denied", uri)

    with pytest.raises(BadConfiguration) as caught:
        resolve(json_spec("/data/tok"), fetch)
    assert str(caught.value) == (
        "spec.tokenizer.tokenizerJson.path: /data/tok/tokenizer.json cannot be read (Permission denied); give a file that this run can read"
    )
