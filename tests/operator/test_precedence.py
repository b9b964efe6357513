"""The cases that the reference shows before the table of recovery, and after an attempt, are what the operator does, in their order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from halcyon_api import names
from halcyon_operator.decide.attempts import next_step
from halcyon_operator.decide.precedence import AFTER_ATTEMPT, BEFORE
from halcyon_operator.decide.spec_hash import RETIRED
from halcyon_operator.decide.steps import Rest, Stall, Step, Stop, Wait
from halcyon_operator.model.views import Observed, Prerequisite
from tests.operator.builders import REFUSED, at, head, jobset, observed, rfc, run
from tests.operator.test_attempts import HASH, OWN_CONFIG_MAP, stalled, status
from tests.operator.test_earlier_runs import orphaned

DIVERGED: dict[str, Any] = {
    "history": [
        {"attempt": 1, "restart": 0, "startedAt": rfc(0), "fromStep": 0, "firstStepAt": rfc(5), "endedAt": rfc(50), "cause": "diverged"}
    ]
}
"""A status with an end for which the table says that the run stops."""
FAILED = jobset(outcome="Failed", reason=REFUSED)
HELD = jobset() | {"spec": {"suspend": True}}
QUEUED = HELD | {"metadata": HELD["metadata"] | {"labels": HELD["metadata"]["labels"] | {"kueue.x-k8s.io/queue-name": "research"}}}
ENDED: dict[str, Any] = {"history": [DIVERGED["history"][0] | {"cause": "preempted", "message": "JobSet demo-1 was suspended by a user"}]}
SUCCEEDED = [{"type": "Succeeded", "status": "True", "reason": "Succeeded", "message": "m", "lastTransitionTime": rfc(50)}]
LAST = {"step": 300, "attempt": 1, "path": "steps/300", "time": rfc(40)}
EDIT = {"since": rfc(55), "fields": ["suspend"], "save": {"value": "edit", "requestedAt": rfc(55)}}


def step(seen: Observed, *, wanted_hash: str = HASH) -> Step:
    assert seen.run.spec is not None
    return next_step(seen, seen.run.status, seen.run.spec, wanted_hash, at(60))


WITH_JOBSET: tuple[tuple[Observed, str], ...] = (
    (observed(run(status(conditions=SUCCEEDED, **DIVERGED)), jobsets=[FAILED]), HASH),
    (observed(run(status(checkpoint=LAST), suspend=True), jobsets=[jobset(outcome="Completed")]), HASH),
    (observed(run(status(), suspend=True), jobsets=[jobset(outcome="Completed")]), HASH),
    (observed(run(status(edit=EDIT), suspend=True), jobsets=[jobset()]), HASH),
    (observed(run(status(**DIVERGED), suspend=True), jobsets=[FAILED]), HASH),
    (observed(run(stalled("Diverged", **DIVERGED)), jobsets=[FAILED]), HASH),
    (observed(run(status(**DIVERGED)), jobsets=[jobset(outcome="Failed", reason=REFUSED, deleting=True)]), HASH),
    (observed(run(status(attemptSpecHash=RETIRED, **DIVERGED)), jobsets=[FAILED]), HASH),
    (observed(run(status(**ENDED)), jobsets=[HELD]), "another"),
    (observed(run(status(**ENDED)), jobsets=[jobset()]), HASH),
    (observed(run(status(**DIVERGED)), jobsets=[FAILED]), "another"),
    (observed(run(status(queue={"name": "research"}), scheduling={"queue": {"name": "research"}}), jobsets=[QUEUED]), HASH),
)
"""A case of each row of `BEFORE`, with the hash of the wanted spec."""

GONE = status(attemptSpecHash=RETIRED, **DIVERGED)
REFUSED_BY_STORE = GONE | {"history": [GONE["history"][0] | {"cause": "rootUnusable"}]}
WITHOUT_JOBSET: tuple[Observed, ...] = (
    observed(run(GONE), head=head(40, owner=("default", "other"))),
    observed(run(GONE | {"checkpoint": LAST}), head=head(300)),
    replace(observed(run(after={"run": "tokens"}), head=head()), prerequisites=(Prerequisite("tokens", None),)),
    observed(run(**{"from": {"run": "base", "step": 40}}), head=head()),
    observed(run(), jobsets=[orphaned(jobset())], head=head(40)),
    observed(run(status(jobSetUid=None)), head=head(), config_map=OWN_CONFIG_MAP),
    observed(run(REFUSED_BY_STORE), head=head(), config_map=OWN_CONFIG_MAP),
    observed(run(REFUSED_BY_STORE | {"attempt": names.MAX_ATTEMPT}), head=head()),
    observed(run(GONE | {"attempt": names.MAX_ATTEMPT}), head=head()),
    observed(run(GONE), head=head()),
)
"""A case of each row of `AFTER_ATTEMPT`. Where two rows match, the second one is not what happens."""


@pytest.mark.parametrize("number", range(len(BEFORE)), ids=[row.when for row in BEFORE])
def test_each_row_before_the_table_is_what_happens(number: int) -> None:
    seen, wanted_hash = WITH_JOBSET[number]
    assert isinstance(step(seen, wanted_hash=wanted_hash), BEFORE[number].steps)


@pytest.mark.parametrize("number", range(len(AFTER_ATTEMPT)), ids=[row.when for row in AFTER_ATTEMPT])
def test_each_row_after_an_attempt_is_what_happens(number: int) -> None:
    assert isinstance(step(WITHOUT_JOBSET[number]), AFTER_ATTEMPT[number].steps)


def test_there_is_a_case_for_each_row() -> None:
    assert (len(WITH_JOBSET), len(WITHOUT_JOBSET)) == (len(BEFORE), len(AFTER_ATTEMPT))


def test_the_table_decides_where_no_row_matches() -> None:
    found = step(observed(run(status(**DIVERGED)), jobsets=[FAILED]))
    assert isinstance(found, Stall)
    assert found.reason == "Diverged"


def test_a_suspended_run_that_has_diverged_is_suspended() -> None:
    """The case that the table alone would decide otherwise."""
    seen = observed(run(status(**DIVERGED), suspend=True), jobsets=[FAILED])
    assert step(seen) == Stop("suspended", "suspended")
    assert isinstance(step(observed(run(GONE, suspend=True), jobsets=[jobset(deleting=True)])), Wait)
    assert isinstance(step(observed(run(GONE, suspend=True))), Rest)
