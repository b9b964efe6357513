"""The definition does not depend on the file's place, and a file that cannot be read is reported in one sentence."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import tokenizers

from halcyon.host.errors import BadConfiguration
from halcyon.tokenizer import BYTE, load, resolve
from halcyon.tokenizer.rendered import RenderedText
from halcyon.tokenizer.resolve import definition_of
from halcyon.tokenizer.side_files import answer_ends
from halcyon_api.spec.tokenizer import BpeTokenizerSpec, ByteTokenizerSpec, TokenizerJsonSpec, TokenizerSpec
from tests.trainer.tokenizer.texts import trained


def json_spec(path: str, end: str | None = None) -> TokenizerSpec:
    return TokenizerSpec(tokenizer_json=TokenizerJsonSpec(path=path, end=end))


def test_the_place_of_the_file_does_not_matter() -> None:
    asked: list[str] = []

    def fetch(uri: str) -> bytes:
        if not uri.endswith(("my.json", "tokenizer.json")):
            raise FileNotFoundError(2, "No such file or directory", uri)
        asked.append(uri)
        return trained().content

    found = [resolve(json_spec(path), fetch) for path in ("a/my.json", "hf://owner/name", "s3://bucket/folder/")]
    assert asked == ["a/my.json", "hf://owner/name/tokenizer.json", "s3://bucket/folder/tokenizer.json"]
    assert len({definition.fingerprint for definition in found}) == 1
    assert resolve(json_spec("x", end="<|eos|>"), fetch).fingerprint != found[0].fingerprint


def test_the_files_beside_a_vocabulary_say_what_its_special_tokens_mean() -> None:
    files = {
        "model/tokenizer.json": trained().content,
        "model/tokenizer_config.json": b'{"bos_token": null, "eos_token": {"content": "<|user_end|>"}, '
        b'"add_bos_token": false}',
        "model/generation_config.json": b'{"eos_token_id": [7, 9]}',
    }

    def fetch(uri: str) -> bytes:
        if uri not in files:
            raise FileNotFoundError(2, "No such file or directory", uri)
        return files[uri]

    for path in ("model", "model/tokenizer.json"):
        definition = resolve(json_spec(path), fetch)
        tokenizer = load(definition)
        assert (tokenizer.bos_id, tokenizer.prefix, tokenizer.suffix) == (None, (), ())
        assert tokenizer.eos_id == tokenizer.special_tokens["<|user_end|>"]
        assert tokenizer.ends == (tokenizer.eos_id, 7, 9)
    files["model/tokenizer_config.json"] = (
        b'{"bos_token": "<|bos|>", "eos_token": "<|eos|>", "add_bos_token": true, "add_eos_token": true}'
    )
    tokenizer = load(resolve(json_spec("model"), fetch))
    assert (tokenizer.prefix, tokenizer.suffix) == ((), ()), "the post-processor alone decides, as in transformers"
    files["model/tokenizer_config.json"] = b"[]"
    with pytest.raises(BadConfiguration, match=r"^tokenizer_config\.json is no JSON object; copy the file again"):
        resolve(json_spec("model"), fetch)


def test_the_post_processor_says_what_stands_around_a_text() -> None:
    names = {"A": 0, "C": 1, "<s>": 2, "</s>": 3}
    around = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    document = {
        "version": "1.0",
        "added_tokens": [special(token, name) for name, token in names.items() if "<" in name],
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [*around, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
            "pair": [*around, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {name: {"id": name, "ids": [names[name]], "tokens": [name]} for name in ("<s>", "</s>")},
        },
        "model": {"type": "BPE", "vocab": names, "merges": []},
    }
    files = {
        "tokenizer.json": json.dumps(document).encode(),
        "tokenizer_config.json": b'{"bos_token": "<s>", "add_bos_token": false}',
    }
    definition = definition_of(files)
    assert definition is not None
    tokenizer = load(definition)
    assert (tokenizer.prefix, tokenizer.encode("CA").tolist(), tokenizer.suffix) == ((2,), [1, 0], (3,))


EXTRA = {"content": "<|extra|>", "special": True}
SIDE_FILES: dict[str, dict[str, Any]] = {
    "decoder": {"tokenizer_config.json": {"added_tokens_decoder": {"600": {"content": "<|bos|>"}, "700": EXTRA}}},
    "additional": {"tokenizer_config.json": {"additional_special_tokens": ["<|extra|>"]}},
    "since-5": {"tokenizer_config.json": {"extra_special_tokens": {"extra_token": "<|extra|>"}}},
    "map": {"special_tokens_map.json": {"additional_special_tokens": [EXTRA, "<|bos|>"]}},
    "added": {"added_tokens.json": {"<|extra|>": 700, "<|bos|>": 3}},
}


@pytest.mark.parametrize("kind", SIDE_FILES)
def test_a_token_that_only_a_side_file_names_is_a_special_token(kind: str) -> None:
    files = {"tokenizer.json": trained().content} | {
        name: json.dumps(document).encode() for name, document in SIDE_FILES[kind].items()
    }
    definition = definition_of(files)
    assert definition is not None
    tokenizer = load(definition)
    library = tokenizers.Tokenizer.from_str(trained().content.decode())
    library.add_special_tokens(["<|extra|>"])
    assert tokenizer.special_tokens["<|extra|>"] == tokenizer.vocab_size - 1 == library.token_to_id("<|extra|>") == 512
    text = "a <|extra|> b"
    (found,) = tokenizer.encode_rendered([RenderedText(text, [(2, 11)])])
    assert found.tokens.tolist() == library.encode(text).ids
    assert tokenizer.encode(text).tolist() == load(trained()).encode(text).tolist(), "a text has no special token"
    assert definition_of(files | {"tokenizer.json": definition.content}) == definition, "nothing is added twice"


def test_tokens_beside_a_file_have_the_ids_of_the_library() -> None:
    plain = {"version": "1.0", "added_tokens": [special(3, "</s>")], "model": {"type": "BPE", "merges": []}}
    content = json.dumps(plain | {"model": plain["model"] | {"vocab": {"a": 0, "b": 1, "<x>": 2, "</s>": 3}}}).encode()
    names = ["<y>", "<x>", "<z>"]
    files = {
        "tokenizer.json": content,
        "tokenizer_config.json": json.dumps({"additional_special_tokens": names, "pad_token": "<x>"}).encode(),
    }
    definition = definition_of(files)
    assert definition is not None
    library = tokenizers.Tokenizer.from_str(content.decode())
    library.add_special_tokens(names)
    tokenizer = load(definition)
    assert tokenizer.special_tokens == {name: library.token_to_id(name) for name in ("</s>", *names)}
    assert (tokenizer.pad_id, tokenizer.eos_id) == (2, 3), "the padding token is the one that the file names"
    assert load(replace(definition, options={"pad": "<absent>"})).pad_id == 3
    with pytest.raises(BadConfiguration, match=r"^the token '<z>' has the id -1, which is none of 0 to \d+; copy "):
        definition_of(files | {"added_tokens.json": b'{"<z>": -1}'})


def test_the_ends_of_answers_are_in_either_config() -> None:
    config = b'{"eos_token_id": [7, 9, true, -1], "model_type": "llama"}'
    for files, ends in (
        ({"config.json": config}, (7, 9)),
        ({"config.json": config, "generation_config.json": b"{}"}, (7, 9)),
        ({"config.json": config, "generation_config.json": b'{"eos_token_id": 8}'}, (8,)),
    ):
        assert answer_ends(files) == ends


def special(token: int, content: str) -> dict[str, Any]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token, "content": content, "special": True, **plain}


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
        "spec.tokenizer.tokenizerJson.path: /data/tok/tokenizer.json cannot be read (Permission denied); give a file "
        "that this run can read"
    )
