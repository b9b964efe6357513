"""A tokenizer.json that would need unbounded time or memory is a sentence that names its field. More of them are rows
of tests/hostile.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from halcyon.host.errors import BadConfiguration
from halcyon.tokenizer import TokenizerDefinition, load
from halcyon.tokenizer.growth import problem_of
from tests.hostile.inputs import replacing, steps, tokenizer

_ENDLESS = r"(\w|\w\w)*!"
"""A pattern whose steps double with every other letter of a word."""


def loaded(**changes: Any) -> Any:
    """A tokenizer.json of bytes with changes, loaded; those of the model begin with ``model_``."""
    return load(TokenizerDefinition("tokenizerJson", tokenizer(**changes).encode()))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"normalizer": steps(*[replacing(".", "aaaa", "Regex")] * 4)}, "normalizer can make a text 256 times"),
        ({"normalizer": steps(*[replacing("(?=b)|x?", "b", "Regex")] * 8)}, "normalizer can make a text 256 times"),
        (
            {"normalizer": steps(replacing("a", "b" * 10), steps(replacing("b", "c" * 10)))},
            "normalizer can make a text 100 times",
        ),
        (
            {"normalizer": steps(*[{"type": "Prepend", "prepend": "a" * 1000}] * 5)},
            "normalizer puts 5,000 characters before a text",
        ),
        ({"normalizer": steps(*[{"type": "NFC"}] * 501)}, "normalizer has 501 steps"),
        ({"decoder": steps(*[replacing("ab", "abab")] * 40, kind="decoders")}, "decoder can make a text"),
    ],
)
def test_a_file_over_its_budget_is_not_loaded(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(
        BadConfiguration, match=rf"^spec\.tokenizer\.tokenizerJson\.path: {words}.*; use another tokenizer$"
    ):
        loaded(**changes)


@pytest.mark.parametrize(
    "normalizer",
    [
        steps({"type": "Prepend", "prepend": "▁"}, replacing(" ", "▁")),
        steps(*[replacing(chr(ord("a") + number), "<0x41>") for number in range(26)]),
        steps(
            {"type": "NFKC"},
            replacing(r"\s+", " ", "Regex"),
            replacing(r"[\n\r]{2,}", "\n", "Regex"),
            {"type": "Lowercase"},
        ),
        None,
        {"type": "Sequence", "normalizers": "no list"},
        "no object",
    ],
)
def test_usual_steps_and_wrong_types_are_no_problem(normalizer: Any) -> None:
    assert problem_of(json.loads(tokenizer(normalizer=normalizer))) is None


def test_a_normalizer_whose_pattern_needs_too_many_steps_is_a_sentence() -> None:
    with pytest.raises(
        BadConfiguration, match=r"^spec\.tokenizer\.tokenizerJson\.path: the tokenizer cannot encode a text \(.*\); use"
    ):
        loaded(normalizer=replacing(_ENDLESS, "", "Regex")).encode("a" * 60)


def test_a_split_pattern_that_needs_too_many_steps_has_the_ids_of_the_reference() -> None:
    """The fast encoder reports the limit of its patterns; the reference takes such a text for one without a match."""
    split = {"type": "Split", "pattern": {"Regex": _ENDLESS}, "behavior": "Isolated", "invert": False}
    bytewise = json.loads(tokenizer())["pre_tokenizer"]
    made = loaded(pre_tokenizer={"type": "Sequence", "pretokenizers": [split, bytewise]})
    assert made.decode(made.encode("a" * 60)) == "a" * 60
