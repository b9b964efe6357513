"""The decision table: it covers every case, has no unused row, and is applied."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import get_args

import pytest

from halcyon_api.ends import EndCause
from halcyon_operator.decide.next.recovery import (
    CAUSES,
    FAILURES,
    RULES,
    STICKY_REASONS,
    Action,
    Budget,
    Capacity,
    Committed,
    Edit,
    Node,
    RecoveryFacts,
    decide,
)
from halcyon_operator.decide.next.recovery_reference import render
from halcyon_operator.decide.reconcile import reconcile
from tests.operator.builders import EXHAUSTED, at, jobset, observed, rfc, run
from tests.operator.test_attempts import condition, deletions, status

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "recovery.md"
EVERYTHING = [
    RecoveryFacts(*facts)
    for facts in product(
        CAUSES, get_args(Committed), get_args(Budget), get_args(Node), get_args(Capacity), get_args(Edit)
    )
]


def test_the_reference_explains_each_action_and_each_capacity() -> None:
    assert all(f"| **{action}** |" in render() for action in get_args(Action))
    assert all(f"| `{capacity}` |" in render() for capacity in get_args(Capacity))


def test_every_combination_has_a_row_and_every_row_a_combination() -> None:
    first = [decide(facts) for facts in EVERYTHING]  # StopIteration if no row matches
    assert [rule for rule in RULES if rule not in first] == []
    assert {rule.action for rule in first} == set(get_args(Action))


def test_every_cause_is_named() -> None:
    named = {cause for rule in RULES if rule.cause is not None for cause in rule.cause}
    assert named == {"none", *EndCause}


def test_exactly_the_rules_that_stop_a_run_have_a_reason() -> None:
    for rule in RULES:
        reasons = [
            rule.reason or (cause.end.reason if isinstance(cause, EndCause) else "") for cause in rule.cause or ()
        ]
        assert all(reasons) if rule.action == "stop" else not rule.reason, rule
    assert {"RestartsExhausted", "Diverged", "Fenced"} <= STICKY_REASONS
    assert "Succeeded" not in STICKY_REASONS


def test_the_table_keeps_the_promises_of_the_guide() -> None:
    for facts in EVERYTHING:
        action = decide(facts).action
        if action == "stop":
            assert facts.cause not in ("none", "preempted", "podDeleted", "jobSetDeleted"), (
                f"the run did not cause it, so it must not stop: {facts}"
            )
        if facts.cause in ("failed", "hung") and facts.budget == "spent":
            assert action == "stop", f"a crash loop must stop: {facts}"
        if action == "edited":
            assert facts.edit == "waits"
            assert facts.committed == "yes" or facts.cause != "none", f"an edit must cost no step: {facts}"
        if action in ("elsewhere", "anywhere", "smaller") and facts.cause == "none":
            assert facts.capacity in ("fewer", "avoided") or (facts.node, facts.committed) == ("slow", "yes"), (
                f"a process group that trains and has its nodes must not be stopped: {facts}"
            )
        if action == "larger":
            assert facts.capacity == "more"
            assert facts.committed == "yes" or facts.cause != "none", f"growing must cost no step: {facts}"


@pytest.mark.parametrize("cause", [cause for cause in EndCause if cause not in ("completed", "suspended")])
@pytest.mark.parametrize("failures", [0, 4])
def test_the_operator_follows_the_table_when_the_jobset_has_failed(cause: EndCause, failures: int) -> None:
    closed = [
        {
            "attempt": 1,
            "restart": 0,
            "startedAt": rfc(0),
            "endedAt": rfc(50),
            "cause": cause.value,
            "message": "so it was",
        }
    ]
    before = run(status(history=closed, failuresWithoutCheckpoint=failures))
    decision = reconcile(observed(before, jobsets=[jobset(outcome="Failed", reason=EXHAUSTED)]), at(60))
    rule = decide(RecoveryFacts(cause=cause, budget="spent" if failures > 3 and cause in FAILURES else "left"))
    if rule.action == "stop":
        assert condition(decision, "Stalled") == ("True", rule.reason or cause.end.reason)
        assert "so it was" in decision.status.condition("Stalled").message
        assert deletions(decision) == []
    else:
        assert (rule.action, deletions(decision)) == ("same", [("JobSet", "demo-1")])
        assert condition(decision, "Stalled")[0] == "False"


def test_the_reference_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), (
        "run: python -m halcyon_operator.decide.next.recovery_reference > docs/reference/recovery.md"
    )
