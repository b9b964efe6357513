"""A tokenizer.json that would need unbounded time or memory is a sentence that names its field."""

from __future__ import annotations

import json
from typing import Any

import pytest
import tokenizers

from halcyon.host.errors import BadConfiguration
from halcyon.tokenizer import TokenizerDefinition, load
from halcyon.tokenizer.growth import problem_of

_END = {
    "id": 256,
    "content": "<|endoftext|>",
    "single_word": False,
    "lstrip": False,
    "rstrip": False,
    "normalized": False,
    "special": True,
}
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}

_ENDLESS = r"(\w|\w\w)*!"
"""A pattern whose steps double with every other letter of a word."""


def document(**changes: Any) -> dict[str, Any]:
    """A tokenizer.json of bytes with changes; those of the model begin with ``model_``."""
    vocabulary = {name: number for number, name in enumerate(sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()))}
    model = {"type": "BPE", "vocab": vocabulary, "merges": []}
    model |= {name.removeprefix("model_"): value for name, value in changes.items() if name.startswith("model_")}
    made = {
        "version": "1.0",
        "added_tokens": [_END],
        "normalizer": None,
        "pre_tokenizer": _BYTES,
        "decoder": _BYTES,
        "model": model,
    }
    return made | {name: value for name, value in changes.items() if not name.startswith("model_")}


def replace(pattern: str, content: str, kind: str = "String") -> dict[str, Any]:
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def steps(*found: dict[str, Any], kind: str = "normalizers") -> dict[str, Any]:
    return {"type": "Sequence", kind: list(found)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"normalizer": steps(*[replace("a", "aa")] * 40)},
            r"normalizer can make a text [\d,]+ times longer, more than 64 times",
        ),
        ({"normalizer": steps(*[replace(".", "aaaa", "Regex")] * 4)}, "normalizer can make a text 256 times"),
        ({"normalizer": steps(*[replace("(?=b)|x?", "b", "Regex")] * 8)}, "normalizer can make a text 256 times"),
        (
            {"normalizer": steps(replace("a", "b" * 10), steps(replace("b", "c" * 10)))},
            "normalizer can make a text 100 times",
        ),
        (
            {"normalizer": steps(*[{"type": "Prepend", "prepend": "a" * 1000}] * 5)},
            "normalizer puts 5,000 characters before a text",
        ),
        ({"normalizer": steps(*[{"type": "NFC"}] * 501)}, "normalizer has 501 steps"),
        ({"decoder": steps(*[replace("ab", "abab")] * 40, kind="decoders")}, "decoder can make a text"),
        ({"added_tokens": [_END | {"id": 4 * 10**9}]}, "it has the id 4000000000, and ids must be below 4194304"),
        ({"model_vocab": {"a": 0, "b": 2**31 - 1}}, "it has the id 2147483647"),
        ({"model_max_input_chars_per_word": 10**9}, "model.max_input_chars_per_word is 1000000000, more than 1000"),
    ],
)
def test_a_file_over_its_budget_is_not_loaded(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(
        BadConfiguration, match=rf"^spec\.tokenizer\.tokenizerJson\.path: {words}.*; use another tokenizer$"
    ):
        load(TokenizerDefinition("tokenizerJson", json.dumps(document(**changes)).encode()))


@pytest.mark.parametrize(
    "normalizer",
    [
        steps({"type": "Prepend", "prepend": "▁"}, replace(" ", "▁")),
        steps(*[replace(chr(ord("a") + number), "<0x41>") for number in range(26)]),
        steps(
            {"type": "NFKC"},
            replace(r"\s+", " ", "Regex"),
            replace(r"[\n\r]{2,}", "\n", "Regex"),
            {"type": "Lowercase"},
        ),
        None,
        {"type": "Sequence", "normalizers": "no list"},
        "no object",
    ],
)
def test_usual_steps_and_wrong_types_are_no_problem(normalizer: Any) -> None:
    assert problem_of(document(normalizer=normalizer)) is None


def test_a_normalizer_whose_pattern_needs_too_many_steps_is_a_sentence() -> None:
    made = json.dumps(document(normalizer=replace(_ENDLESS, "", "Regex"))).encode()
    with pytest.raises(
        BadConfiguration, match=r"^spec\.tokenizer\.tokenizerJson\.path: the tokenizer cannot encode a text \(.*\); use"
    ):
        load(TokenizerDefinition("tokenizerJson", made)).encode("a" * 60)


def test_a_split_pattern_that_needs_too_many_steps_has_the_ids_of_the_reference() -> None:
    """The fast encoder reports the limit of its patterns; the reference takes such a text for one without a match."""
    split = {"type": "Split", "pattern": {"Regex": _ENDLESS}, "behavior": "Isolated", "invert": False}
    made = json.dumps(document(pre_tokenizer={"type": "Sequence", "pretokenizers": [split, _BYTES]})).encode()
    tokenizer = load(TokenizerDefinition("tokenizerJson", made))
    assert tokenizer.decode(tokenizer.encode("a" * 60)) == "a" * 60
