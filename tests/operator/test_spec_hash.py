"""Which edits need a new attempt: each field of the spec is in one of two lists."""

from __future__ import annotations

from typing import Any

import pytest

from halcyon_api.former.reading import present_form
from halcyon_api.training_run import TrainingRunSpec, parse_run
from halcyon_operator.decide.spec_hash import RETIRED, attempt_spec_hash, fits
from tests.operator.builders import run


def spec(**changes: Any) -> TrainingRunSpec:
    return parse_run(run(**changes)).spec


BASE = attempt_spec_hash(spec())

STAYS: list[dict[str, Any]] = [
    {"suspend": True},
    {"ttlSecondsAfterFinished": 10},
    {"telemetry__statusIntervalSeconds": 30},
    {"recovery__maxRestarts": 7},
    {"imagePullPolicy": "Always"},
    {"trainer__logEverySteps": 1},  # its default, written out
    {"mesh": {}},
]

RESTARTS: list[dict[str, Any]] = [
    {"image": "other:1"},
    {"accelerator__slices": 1},
    {"accelerator__topology": "2x1"},
    {"accelerator__hostResources": {"cpu": "1"}},
    {"scheduling": {"nodeSelector": {"a": "b"}}},
    {"scheduling": {"tolerations": [{"key": "a"}]}},
    {"mesh": {"ici": {"fsdp": 1, "data": -1}}},
    {"model__llama__layers": 3},
    {"data__order": {"sequential": {}}},
    {"optimizer": {"learningRate": 0.1, "adamw": {}}},
    {"trainer__microbatches": 2},
    {"trainer__evaluation": {"everySteps": 5}},
    {"checkpoint__save": {"everySteps": 5}},
    {"checkpoint__keep": 5},
    {"recovery__gracePeriodSeconds": 5},
    {"scheduling": {"priorityClassName": "high"}},
    {"telemetry__port": 9500},
]


@pytest.mark.parametrize("change", STAYS, ids=str)
def test_edits_of_these_fields_keep_the_attempt(change: dict[str, Any]) -> None:
    assert attempt_spec_hash(spec(**change)) == BASE


@pytest.mark.parametrize("change", RESTARTS, ids=str)
def test_edits_of_these_fields_need_a_new_attempt(change: dict[str, Any]) -> None:
    assert attempt_spec_hash(spec(**change)) != BASE


def test_a_hash_of_an_unknown_scheme_fits_and_a_retired_attempt_never_does() -> None:
    assert fits(BASE, BASE)
    assert fits(None, BASE)
    assert fits("0-older", BASE)
    assert not fits(attempt_spec_hash(spec(image="other:1")), BASE)
    assert not fits(RETIRED, BASE)
    assert RETIRED == "1-retired", "operators of earlier versions have recorded this value"


FORMER_OPTIMIZER = {
    "adamw": {"learningRate": 0.001, "beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8, "weightDecay": 0.1, "maxGradientNorm": 1.0}
    | {"schedule": {"wsd": {"warmupSteps": 10, "decaySteps": 50, "minRatio": 0.0}}}
}
FORMER: dict[str, Any] = {
    "stage": "train",
    "optimizer": FORMER_OPTIMIZER,
    "data__mixture": {"stages": []},
    "trainer__stages": [{"fromStep": 7, "batchSize": 16}],
}
RECORDED = "1-4fbc03d26863e4ccdf5bdede1d04dad1e3c813c4"
"""The hash that the previous release recorded in the status of a run with the fields of `FORMER`."""


def stored(**changes: Any) -> TrainingRunSpec:
    """The run as the API server stored it for the previous release."""
    return spec(**FORMER, **changes)


def test_a_hash_of_the_release_before_fits_the_same_run_and_no_other() -> None:
    assert fits(RECORDED, attempt_spec_hash(stored(), RECORDED))
    assert fits(RECORDED, attempt_spec_hash(stored(suspend=True), RECORDED))
    assert not fits(RECORDED, attempt_spec_hash(stored(image="other:1"), RECORDED))
    moved = present_form(run(**FORMER)["spec"], TrainingRunSpec).spec
    assert not any(place in moved["trainer"] for place in ("stages", "stage"))
    assert fits(RECORDED, attempt_spec_hash(parse_run(run() | {"spec": moved}).spec, RECORDED)), (
        "the hash must also fit after the fields have moved"
    )
    assert attempt_spec_hash(stored()).startswith("2-"), "a new attempt without a recorded hash must use the new scheme"
    assert attempt_spec_hash(stored(), RETIRED).startswith("2-"), "also if the last attempt was stopped"


def test_a_field_that_moved_later_keeps_the_hash_that_was_recorded_before() -> None:
    recorded = "2-10d4167867a7ef58df109845185580b9525bbb1a"
    model = {"llama": {"layers": 2, "hiddenSize": 64, "intermediateSize": 128, "heads": 4}}
    assert attempt_spec_hash(spec(model={"llama": model["llama"] | {"remat": "full"}})) == recorded
    assert attempt_spec_hash(spec(model=model, trainer__remat="full")) == recorded
    assert attempt_spec_hash(spec(model=model)) != recorded


def test_both_places_of_a_field_have_one_hash() -> None:
    assert attempt_spec_hash(spec(stage="data")) == attempt_spec_hash(spec(task="data")) != BASE
    assert attempt_spec_hash(spec(stage="train")) == BASE
