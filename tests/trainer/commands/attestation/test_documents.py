"""A statement of a stranger is read in full, or refused with a sentence."""

from __future__ import annotations

import json
from typing import Any

import pytest

from halcyon.commands.attestation.deriving import image_of, misfit, statement
from halcyon.commands.attestation.documents import (
    Claims,
    ReplayRecord,
    Statement,
    Unacceptable,
    decode,
    encode,
    parse,
)
from halcyon_api.checkpoint_documents import DataPosition, Epoch, Link

HASHES = ("a" * 64, "b" * 64, "c" * 64)


def link(step: int, steps: int, hardware: str = "8 x test") -> Link:
    return Link(
        path=f"steps/{step:012d}.000001.w/",
        step=step,
        epoch=Epoch(attempt=1, restart=0),
        state=f"{step:064x}",
        sections={"spec.model": "d" * 64, "data": "e" * 64},
        data_position=DataPosition(step=step, sequences=0, tokens=0),
        steps=steps,
        numbers="f" * 64,
        hardware=hardware,
        mesh={"fsdp": 8},
        versions={"jax": "1"},
    )


LINKS = tuple(zip(HASHES, (link(10, 4), link(6, 3), link(3, 3, "4 x test")), strict=True))
STATED = statement("tests/run", LINKS, Claims())


def record(**changes: Any) -> ReplayRecord:
    document = {
        "run": "tests/run", "chain": HASHES[1], "identical": True, "from": 3, "to": 6, "comparedSteps": 3,
        "stateCompared": True, "differentArrays": [], "notes": [], "hardware": "1 x other", "versions": {"jax": "2"},
        "time": "2026-03-01T12:00:00Z", "firstDifferentStep": None,
    }  # fmt: skip
    return ReplayRecord.model_validate_json(json.dumps(document | changes))


def test_a_statement_names_what_the_chain_shows() -> None:
    document = STATED.document()
    assert document["_type"] == "https://in-toto.io/Statement/v1"
    assert document["predicateType"] == "halcyon.dev/training/v1"
    assert document["subject"][0] == {"name": "steps/000000000010.000001.w", "digest": {"sha256": f"{10:064x}"}}
    predicate = document["predicate"]
    assert predicate["chain"] == {"head": HASHES[0], "links": 3, "from": 0, "to": 10}
    assert [(one["from"], one["to"], one["hardware"]) for one in predicate["computed"]] == [
        (3, 10, "8 x test"),
        (0, 3, "4 x test"),
    ]
    assert (predicate["data"], predicate["document"]["sections"]) == (
        {"sha256": "e" * 64},
        {"spec.model": "d" * 64},
    )
    assert decode(encode(STATED), Statement) == STATED


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[" * 100_000 + "]" * 100_000, "is nested deeper than 32 levels"),
        ("[" * 40 + "]" * 40, "is nested deeper than 32 levels"),
        ('{"subject":[],"subject":[]}', "has an object with a key that is given twice"),
        ('{"predicate":{"run":"a","run":"b"}}', "has an object with a key that is given twice"),
        ('{"predicate":NaN}', "has NaN, which is no number of JSON"),
        ("9" * 5000, "is not JSON"),
        ("{", "is not JSON"),
        ("", "is not JSON"),
        ("[]", "is not of the expected form (document: Input should be an object)"),
        ("{}", "is not of the expected form (_type: Field required)"),
        ('{"_type":"\\ud800"}', "is not of the expected form"),
    ],
)
def test_what_is_no_statement_is_refused(text: str, problem: str) -> None:
    with pytest.raises(Unacceptable) as refused:
        decode(text, Statement)
    assert str(refused.value).startswith(problem)


@pytest.mark.parametrize(
    "change",
    [
        {"extra": 1},
        {"subject": []},
        {"predicateType": "https://slsa.dev/provenance/v1"},
        {"_type": "https://in-toto.io/Statement/v0.1"},
        {"predicate": STATED.document()["predicate"] | {"data": None}},
        {
            "predicate": STATED.document()["predicate"]
            | {"chain": {"head": HASHES[0], "links": 3.0, "from": 0, "to": 10}}
        },
        {
            "predicate": STATED.document()["predicate"]
            | {"chain": {"head": HASHES[0], "links": 3, "first": 0, "to": 10}}
        },
    ],
)
def test_a_member_that_is_missing_unknown_or_of_another_type_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(Unacceptable):
        decode(json.dumps(STATED.document() | change), Statement)


def test_a_sentence_cannot_change_the_terminal() -> None:
    with pytest.raises(Unacceptable) as refused:
        decode(json.dumps({"\x1b[2J" + "long" * 1000: 1}), Statement)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, None),
        ({"identical": False, "firstDifferentStep": 5}, None),
        ({"run": "tests/other"}, "it is of the run tests/other, not of tests/run"),
        ({"chain": "0" * 64}, "the chain does not have the link"),
        ({"chain": None}, "the chain does not have the link"),
        ({"from": 4}, "the chain did not have steps 5 to 6 then"),
        ({"to": 7}, "the chain did not have steps 4 to 7 then"),
        ({"to": 3}, "the chain did not have steps 4 to 3 then"),
        ({"identical": False}, "its verdict is not what it has found"),
        ({"firstDifferentStep": 5}, "its verdict is not what it has found"),
        ({"differentArrays": ["model.bias"]}, "its verdict is not what it has found"),
        ({"comparedSteps": 4}, "it has not compared what it says"),
        ({"comparedSteps": 0, "stateCompared": False}, "it has not compared what it says"),
    ],
)
def test_a_record_must_be_of_the_chain(changes: dict[str, Any], problem: str | None) -> None:
    found = misfit(record(**changes), "tests/run", LINKS)
    assert (found is None) == (problem is None), found
    assert found is None or found.startswith(str(problem))


def test_an_image_has_the_digest_of_its_name() -> None:
    digest = "1" * 64
    assert image_of(f"ghcr.io/o/trainer@sha256:{digest}").document()["digest"] == {"sha256": digest}
    assert image_of("ghcr.io/o/trainer:1").document() == {"name": "ghcr.io/o/trainer:1"}


def test_json_is_read_as_it_is() -> None:
    assert parse('{"a": [1, "\\u00fc", true, null]}') == {"a": [1, "ü", True, None]}
