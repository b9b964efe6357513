"""Which edits need a new attempt: each field of the spec is in one of two lists."""

from __future__ import annotations

from typing import Any

import pytest

from halcyon_api.reading import parse_run
from halcyon_api.training_run import TrainingRunSpec
from halcyon_operator.decide.record.spec_hash import RETIRED, attempt_spec_hash, fits
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
    {"model__numHiddenLayers": 3},
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


def test_a_missing_record_fits_and_a_retired_attempt_never_does() -> None:
    assert fits(BASE, BASE)
    assert fits(None, BASE)
    assert not fits(attempt_spec_hash(spec(image="other:1")), BASE)
    assert not fits(RETIRED, BASE)


def test_a_recorded_hash_stays_the_same() -> None:
    """A hash that another version computes otherwise restarts every run at an upgrade."""
    assert BASE == "64746ae01a8a64c5e2be74ea70c6bbf349c655ae"
