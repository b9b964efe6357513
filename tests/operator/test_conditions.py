"""Conditions as kstatus readers understand them."""

from __future__ import annotations

from typing import get_args

import pytest

from halcyon_api.status import ConditionType, Phase, TrainingRunStatus, parse_status
from halcyon_operator.conditions import Outlook, stalled, with_outlook
from tests.operator.builders import at, rfc

ON_ITS_WAY = ("Pending", "Starting", "Restarting", "Suspending")


def kstatus(status: TrainingRunStatus) -> str:
    """What kstatus computes from the standard conditions."""
    truth = {condition.type: condition.status for condition in status.conditions}
    if truth["Reconciling"] == "True":
        return "InProgress"
    if truth["Stalled"] == "True":
        return "Failed"
    return "Current" if truth["Ready"] == "True" else "InProgress"


@pytest.mark.parametrize("phase", get_args(Phase))
def test_every_phase_says_one_thing(phase: Phase) -> None:
    outlook = stalled("BadConfiguration", "m") if phase == "Failed" else Outlook(phase, phase, "m")
    status = with_outlook(TrainingRunStatus(), outlook, 3, at(0))
    truth = {condition.type: condition.status for condition in status.conditions}
    assert set(truth) == set(get_args(ConditionType))
    assert truth["Reconciling"] == ("True" if phase in ON_ITS_WAY else "False")
    assert truth["Ready"] == ("True" if phase in ("Running", "Succeeded") else "False")
    assert [kind for kind in ("Running", "Suspended", "Succeeded", "Failed") if truth[kind] == "True"] == (
        [] if phase in ON_ITS_WAY else [phase]
    )
    expected = {"Failed": "Failed", "Running": "Current", "Succeeded": "Current"}.get(phase, "InProgress")
    assert kstatus(status) == expected
    assert {condition.observed_generation for condition in status.conditions} == {3}
    assert parse_status(status.document()) == status, "what is written can be read back"


def test_the_transition_time_moves_with_the_truth_only() -> None:
    first = with_outlook(TrainingRunStatus(), Outlook("Starting", "Starting", "a"), 1, at(0))
    same = with_outlook(first, Outlook("Restarting", "Restarting", "b"), 1, at(10))
    assert same.condition("Ready").last_transition_time == rfc(0)
    assert same.condition("Ready").message == "b"
    ready = with_outlook(same, Outlook("Running", "Running", "c"), 1, at(20))
    assert ready.condition("Ready").last_transition_time == rfc(20)
    assert ready.condition("Stalled").last_transition_time == rfc(0)


def test_messages_are_bounded_and_printable() -> None:
    status = with_outlook(TrainingRunStatus(), stalled("X", "a\x00\x1b[31m" + "b" * 10_000), 1, at(0))
    message = status.condition("Stalled").message
    assert len(message) <= 2048
    assert message.isprintable()
