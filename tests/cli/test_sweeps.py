"""Sweeps: the variants of a run, with names, lineage and roots of their own."""

from __future__ import annotations

import json
from typing import Any

import pytest

from halcyon_api.base import InvalidRun
from halcyon_api.names import ANNOTATION_SWEEP, LABEL_SWEEP
from halcyon_api.reading import parse_run
from halcyon_cli.sweeps import parse_sweep, values_of, variants
from tests.api.documents import document

RATE, SEED = "spec.optimizer.learningRate", "spec.trainer.seed"


def test_a_grid_has_each_combination_with_its_name_label_and_root() -> None:
    base = document(metadata={"name": "small", "labels": {"team": "a"}}, spec__optimizer={"adamw": {}})
    found = variants(base, parse_sweep({"name": "rates", "grid": {RATE: [0.1, 0.2], SEED: [0, 1]}}))
    assert [(variant.values[RATE], variant.values[SEED]) for variant in found] == [
        (0.1, 0),
        (0.1, 1),
        (0.2, 0),
        (0.2, 1),
    ]
    third = found[2].document
    assert third["metadata"]["name"] == "small-3"
    assert third["metadata"]["labels"] == {"team": "a", LABEL_SWEEP: "rates"}
    assert json.loads(third["metadata"]["annotations"][ANNOTATION_SWEEP]) == {RATE: 0.2, SEED: 0}
    assert len({parse_run(variant.document).spec.checkpoint.root for variant in found}) == 4
    assert parse_run(third).spec.optimizer.learning_rate == 0.2
    assert base["spec"]["optimizer"] == {"adamw": {}}


def random(samples: int, **values: Any) -> list[dict[str, Any]]:
    return values_of(parse_sweep({"random": {"samples": samples, "seed": 3, "values": values}}))


def test_random_values_depend_on_seed_number_and_path_alone() -> None:
    ranges = {RATE: {"logUniform": [1e-5, 1e-2]}}
    few, many = random(3, **ranges), random(40, **{SEED: {"integer": [0, 9]}}, **ranges)
    assert [values[RATE] for values in few] == [values[RATE] for values in many[:3]] == [0.0002286, 0.0004024, 0.004238]
    assert all(1e-5 <= values[RATE] <= 1e-2 for values in many)
    assert {values[SEED] for values in many} <= set(range(10))
    assert 8 < sum(values[RATE] < 10**-3.5 for values in many) < 32, "they must be even on a logarithmic scale"


def test_a_list_has_its_variants_and_a_variant_may_set_name_and_root() -> None:
    found = variants(
        document(),
        parse_sweep({"list": [{SEED: 1}, {"metadata.name": "chosen"}, {"spec.checkpoint.root": "gs://b/c"}]}),
    )
    assert [variant.document["metadata"]["name"] for variant in found] == ["small-1", "chosen", "small-3"]
    roots = [variant.document["spec"]["checkpoint"]["root"] for variant in found]
    assert roots == ["file:///checkpoints/small/small-1", "file:///checkpoints/small/chosen", "gs://b/c"]


@pytest.mark.parametrize(
    ("sweep", "sentence"),
    [
        ({}, "set exactly one of grid, random and list"),
        ({"grid": {RATE: [1.0]}, "list": [{}]}, "set exactly one of grid, random and list"),
        ({"grid": {"spec.optimizer.rate": [1.0]}}, "spec.optimizer.rate: unknown field"),
        ({"grid": {RATE: ["fast"]}}, f"{RATE}: must be a number, not 'fast'"),
        (
            {"grid": {SEED: list(range(40)), "spec.trainer.steps": list(range(40))}},
            "1,600 combinations are more than 1,000",
        ),
        (
            {"random": {"samples": 1, "values": {RATE: {"logUniform": [0, 1]}}}},
            "give the smaller number first, both numbers above 0",
        ),
        ({"random": {"samples": 1, "values": {RATE: {"uniform": [2, 1]}}}}, "give the smaller number first"),
        ({"random": {"values": {}}}, "random.samples: required"),
    ],
)
def test_a_wrong_sweep_is_refused_in_one_sentence(sweep: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidRun) as refused:
        variants(document(), parse_sweep(sweep))
    assert sentence in str(refused.value)


def test_a_name_that_is_too_long_is_refused() -> None:
    with pytest.raises(InvalidRun, match="has more than 40 characters"):
        variants(document(metadata={"name": "n" * 39}), parse_sweep({"list": [{}]}))
