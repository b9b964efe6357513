"""The sentence about a changed run names each changed field, its present and its former value."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from halcyon.checkpoint.fingerprints import differences, sentence
from halcyon_api.checkpoint_documents import Fingerprints, canonical_json


def prints(**sections: Any) -> Fingerprints:
    documents = {f"spec.{name}": section for name, section in sections.items()}
    hashes = {name: hashlib.sha256(canonical_json(one)).hexdigest() for name, one in documents.items()}
    return Fingerprints(sections=hashes, documents=documents)


def sources(*names: str) -> dict[str, Any]:
    return {"data": {"sources": [{"name": name} for name in names]}}


SAME: tuple[str, ...] = ()
OTHER_KIND = ("spec.model.family is gpt2 but was llama",)


@pytest.mark.parametrize(
    ("now", "then", "clauses"),
    [
        (
            {"model": {"family": "llama", "numHiddenLayers": 4}},
            {"model": {"family": "llama", "numHiddenLayers": 4}},
            SAME,
        ),
        (
            {"model": {"family": "llama", "numHiddenLayers": 6}},
            {"model": {"family": "llama", "numHiddenLayers": 4}},
            ("spec.model.numHiddenLayers is 6 but was 4",),
        ),
        ({"model": {"family": "gpt2"}}, {"model": {"family": "llama"}}, OTHER_KIND),
        (sources("a", "b"), sources("a", "c"), ("spec.data.sources[1].name is b but was c",)),
        ({"data": {"sources": [1]}}, {"data": {"sources": [1, 2]}}, ("spec.data.sources is [1] but was [1, 2]",)),
        ({"model": {"tied": True}}, {"model": {"tied": 1}}, ("spec.model.tied is true but was 1",)),
        ({"optimizer": {"rate": 0.1}}, {}, ('spec.optimizer is {"rate": 0.1} but was not set',)),
    ],
)
def test_differences_name_each_field_with_its_present_and_former_value(
    now: dict[str, Any], then: dict[str, Any], clauses: tuple[str, ...]
) -> None:
    assert differences(prints(**now), prints(**then)) == clauses


def test_a_section_with_the_same_document_and_another_hash_is_named() -> None:
    other = Fingerprints(sections={"spec.model": "f" * 64}, documents={"spec.model": {"layers": 4}})
    assert differences(prints(model={"layers": 4}), other) == ("spec.model has another fingerprint",)


def test_the_sentence_is_bounded() -> None:
    clauses = differences(
        prints(model={f"f{n}": n for n in range(9)}), prints(model={f"f{n}": n + 1 for n in range(9)})
    )
    text = sentence(clauses, 400, "file:///root")
    assert text.startswith(
        "the checkpoint at step 400 in file:///root was made with another configuration: spec.model.f0 is 0 but was 1; "
    )
    assert text.endswith(
        "and 4 more fields differ; set it back to go on, or begin again with halcyon train --fresh, or train the change "
        "as a branch: halcyon train run.yaml --branch NAME (in a cluster: a new run with spec.from)"
    )
