"""Conditions by phase. tests/gitops tests how Flux and Argo CD interpret them."""

from __future__ import annotations

from typing import get_args

import pytest

from halcyon_api.generate.crd import UNSEEN
from halcyon_api.status.run_status import ConditionType, Phase, TrainingRunStatus, parse_status
from halcyon_operator.decide.reconcile import reconcile
from halcyon_operator.decide.tell.conditions import Description, stalled, with_description
from tests.operator.builders import at, observed, rfc, run

ON_ITS_WAY = ("Pending", "Queued", "Starting", "Restarting", "Suspending")


@pytest.mark.parametrize("phase", get_args(Phase))
def test_the_conditions_of_each_phase_agree(phase: Phase) -> None:
    outlook = stalled("BadConfiguration", "m") if phase == "Failed" else Description(phase, phase, "m")
    status = with_description(TrainingRunStatus(), outlook, 3, at(0))
    truth = {condition.type: condition.status for condition in status.conditions}
    assert set(truth) == set(get_args(ConditionType))
    assert truth["Reconciling"] == ("True" if phase in ON_ITS_WAY else "False")
    assert truth["Ready"] == ("True" if phase in ("Running", "Suspended", "Succeeded") else "False")
    assert truth["Queued"] == ("True" if phase == "Queued" else "False")
    assert [kind for kind in ("Running", "Suspended", "Succeeded", "Failed") if truth[kind] == "True"] == (
        [] if phase in ON_ITS_WAY else [phase]
    )
    assert {condition.observed_generation for condition in status.conditions} == {3}
    assert parse_status(status.document()) == status, "a written status must be readable"


def test_the_transition_time_moves_with_the_truth_only() -> None:
    first = with_description(TrainingRunStatus(), Description("Starting", "Starting", "a"), 1, at(0))
    same = with_description(first, Description("Restarting", "Restarting", "b"), 1, at(10))
    assert same.condition("Ready").last_transition_time == rfc(0)
    assert same.condition("Ready").message == "b"
    ready = with_description(same, Description("Running", "Running", "c"), 1, at(20))
    assert ready.condition("Ready").last_transition_time == rfc(20)
    assert ready.condition("Stalled").last_transition_time == rfc(0)


def test_messages_are_bounded_and_printable() -> None:
    status = with_description(TrainingRunStatus(), stalled("X", "a\x00\x1b[31m" + "b" * 10_000), 1, at(0))
    message = status.condition("Stalled").message
    assert len(message) <= 2048
    assert message.isprintable()


def test_the_default_status_of_the_crd_counts_as_no_status() -> None:
    unseen = reconcile(observed(run({"observedGeneration": UNSEEN})), at(0))
    assert unseen == reconcile(observed(run()), at(0))
    assert unseen.status is not None
    assert unseen.status.observed_generation == 1
