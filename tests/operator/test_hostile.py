"""Whatever objects are in the cluster, every observation leads to a decision, and the decision can be written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker

from halcyon_operator.decide.reconcile import reconcile
from halcyon_operator.decide.record.status_writes import status_document
from halcyon_operator.model.untrusted import moment
from halcyon_operator.objects.jobset import build
from halcyon_operator.observe.trainers import parse_report
from tests import quick_yaml
from tests.examples_tried import holds_for, tried_with
from tests.operator.builders import at
from tests.operator.hostile import any_observation

CRD = quick_yaml.load((Path(__file__).parents[2] / "crds" / "halcyon.dev_trainingruns.yaml").read_text())
FORMATS = FormatChecker(formats=())
FORMATS.checks("date-time")(lambda value: not isinstance(value, str) or moment(value) is not None)
VALIDATOR = Draft202012Validator(
    CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"], format_checker=FORMATS
)
"""The API server's schema of a status."""


@pytest.mark.slow
@tried_with(50, 150)
def test_no_object_can_make_a_reconciliation_fail(examples: int) -> None:
    holds_for(examples, check_no_object_can_make_a_reconciliation_fail, st.data())


def check_no_object_can_make_a_reconciliation_fail(data: st.DataObject) -> None:
    seen = any_observation(data)
    decision = reconcile(seen, at(60))
    json.dumps([[build(plan) for plan in decision.create], [event.message for event in decision.events]])
    if decision.status is not None:
        written = json.loads(json.dumps(status_document(decision.status)))
        assert all(abs(number) < 2**63 for number in numbers(written))
        if VALIDATOR.is_valid(seen.run.raw_status):  # The API server stores no other.
            VALIDATOR.validate(written)


def numbers(document: Any) -> list[float]:
    """All numbers in a document."""
    if isinstance(document, dict):
        return [number for value in document.values() for number in numbers(value)]
    if isinstance(document, list):
        return [number for value in document for number in numbers(value)]
    return [document] if isinstance(document, int | float) and not isinstance(document, bool) else []


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_are_rejected_as_a_report(body: bytes) -> None:
    assert parse_report(body, "demo", (1, 0)).report is None
