"""The cases before the table of recovery, and after an attempt: each row decides some case, and the first row that
matches decides.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import strategies as st

from halcyon_api import names
from halcyon_api.ends import EndCause
from halcyon_api.reading import parse_run
from halcyon_api.status.run_status import HistoryEntry
from halcyon_operator.decide.next.attempts import BEFORE, current_jobset, next_step
from halcyon_operator.decide.next.by_cause import recovery_facts
from halcyon_operator.decide.next.next_attempt import AFTER_ATTEMPT
from halcyon_operator.decide.next.recovery import Action, decide
from halcyon_operator.decide.next.steps import (
    Create,
    DiscardConfigMap,
    Finish,
    Finished,
    Keep,
    NewAttempt,
    Rest,
    Situation,
    Stall,
    StayStalled,
    Step,
    Stop,
    Wait,
    first_step,
)
from halcyon_operator.decide.record.plan import plan_hash
from halcyon_operator.decide.record.spec_hash import RETIRED
from halcyon_operator.model.ownership import own_jobsets
from halcyon_operator.model.views import HeadPending, Observed, Prerequisite
from halcyon_operator.observe.jobsets import parse_jobset
from tests.examples_tried import holds_for, tried_with
from tests.operator.builders import REFUSED, at, head, jobset, observed, pod, rfc, run
from tests.operator.hostile import any_observation
from tests.operator.test_attempts import HASH, OWN_CONFIG_MAP, stalled, status
from tests.operator.test_earlier_runs import orphaned

DIVERGED: dict[str, Any] = {
    "history": [
        {
            "attempt": 1,
            "restart": 0,
            "startedAt": rfc(0),
            "fromStep": 0,
            "firstStepAt": rfc(5),
            "endedAt": rfc(50),
            "cause": "diverged",
        }
    ]
}
"""A status with an end for which the table says that the run stops."""
FAILED = jobset(outcome="Failed", reason=REFUSED)
HELD = jobset() | {"spec": {"suspend": True}}
QUEUED = HELD | {
    "metadata": HELD["metadata"] | {"labels": HELD["metadata"]["labels"] | {"kueue.x-k8s.io/queue-name": "research"}}
}
ENDED: dict[str, Any] = {
    "history": [DIVERGED["history"][0] | {"cause": "preempted", "message": "JobSet demo-1 was suspended by a user"}]
}
SUCCEEDED = [
    {"type": "Succeeded", "status": "True", "reason": "Succeeded", "message": "m", "lastTransitionTime": rfc(50)}
]
LAST = {"step": 300, "attempt": 1, "path": "steps/300", "time": rfc(40)}
UNGUARDED = {
    "slices": 2,
    "wantedSlices": 2,
    "avoided": [{"node": "node-a", "since": rfc(0), "blames": 2, "attempt": 1}],
}
MIRRORED = run(status(rootAttempt=2, **DIVERGED))
MIRRORED["metadata"]["annotations"] = {"kueue.x-k8s.io/prebuilt-workload-name": "demo-7"}
EDIT = {"since": rfc(55), "fields": ["suspend"], "save": {"value": "edit", "requestedAt": rfc(55)}}


def situation(seen: Observed, wanted_hash: str = HASH) -> Situation:
    assert seen.run.spec is not None
    seen = replace(seen, now=at(60))
    return Situation(seen, seen.run.status, seen.run.spec, current_jobset(seen), wanted_hash)


def step(seen: Observed) -> Step:
    return next_step(situation(seen))


WITH_JOBSET: tuple[tuple[Observed, str], ...] = (
    (observed(run(status(conditions=SUCCEEDED, **DIVERGED)), jobsets=[FAILED]), HASH),
    (observed(run(status(checkpoint=LAST), suspend=True), jobsets=[jobset(outcome="Completed")]), HASH),
    (observed(run(status(), suspend=True), jobsets=[jobset(outcome="Completed")]), HASH),
    (observed(run(status(edit=EDIT), suspend=True), jobsets=[jobset()]), HASH),
    (observed(run(status(**DIVERGED), suspend=True), jobsets=[FAILED]), HASH),
    (observed(MIRRORED, jobsets=[FAILED]), HASH),
    (observed(run(stalled("Diverged", **DIVERGED)), jobsets=[FAILED]), HASH),
    (observed(run(status(**DIVERGED)), jobsets=[jobset(outcome="Failed", reason=REFUSED, deleting=True)]), HASH),
    (observed(run(status(attemptSpecHash=RETIRED, **DIVERGED)), jobsets=[FAILED]), HASH),
    (observed(run(status(**ENDED)), jobsets=[HELD]), "another"),
    (observed(run(status(**ENDED)), jobsets=[jobset()]), HASH),
    (observed(run(status(**DIVERGED)), jobsets=[FAILED]), "another"),
    (
        observed(run(status(queue={"name": "research"}), scheduling={"queue": {"name": "research"}}), jobsets=[QUEUED]),
        HASH,
    ),
    (observed(run(status(placement=UNGUARDED)), jobsets=[jobset()], pods=[pod()]), HASH),
)
"""A case of each row of `BEFORE`, with the hash of the wanted spec."""

ON_GPUS: dict[str, Any] = {"accelerator": {"type": "h100", "topology": "1x8"}}
PLAN = {"hash": plan_hash(parse_run(run(**ON_GPUS)).spec)}
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
    observed(run(GONE, plan="warn", **ON_GPUS), head=head()),
    observed(run(GONE | {"plan": PLAN | {"fits": False}}, plan="require", **ON_GPUS), head=head()),
    observed(run(GONE | {"plan": PLAN | {"fits": False}}, plan="warn", **ON_GPUS), head=head()),
)
"""A case of each row of `AFTER_ATTEMPT`. Where two rows match, the second one is not what happens."""


@pytest.mark.parametrize("number", range(len(BEFORE)), ids=[row.when for row in BEFORE])
def test_each_row_before_the_table_is_what_happens(number: int) -> None:
    case = situation(*WITH_JOBSET[number])
    assert next_step(case) == BEFORE[number].step(case) is not None
    assert first_step(BEFORE[:number], case) is None


@pytest.mark.parametrize("number", range(len(AFTER_ATTEMPT)), ids=[row.when for row in AFTER_ATTEMPT])
def test_each_row_after_an_attempt_is_what_happens(number: int) -> None:
    case = situation(WITHOUT_JOBSET[number])
    assert next_step(case) == AFTER_ATTEMPT[number].step(case) is not None
    assert first_step((*BEFORE, *AFTER_ATTEMPT[:number]), case) is None


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


STEPS: dict[Action, tuple[type, ...]] = {
    "stop": (Stall,),
    "wait": (Keep, Stop),
    "same": (Keep, Stop),
    **dict.fromkeys(("pause", "edited", "elsewhere", "anywhere", "smaller", "larger"), (Stop,)),
}
"""The steps that carry out an action of the table. A JobSet that has failed is deleted also to wait."""


@pytest.mark.slow
@tried_with(50, 150)
def test_the_tables_and_the_step_agree_whatever_is_in_the_cluster(examples: int) -> None:
    holds_for(examples, check_tables_and_step, st.data())


def check_tables_and_step(data: st.DataObject) -> None:
    outcome = data.draw(st.sampled_from(["Failed", "Completed"]))
    failures, wanted = data.draw(st.sampled_from([0, 99])), data.draw(st.sampled_from([HASH, "another"]))
    seen = any_observation(data)
    if seen.run.spec is None or isinstance(seen.head, HeadPending):
        return
    check_step(situation(seen, wanted))
    for cause in (None, *EndCause):
        # Seldom by chance: one JobSet, nothing that waits from before, and an end by a known cause if the JobSet has
        # ended.
        entry = HistoryEntry(attempt=1, restart=2, started_at=rfc(0), first_step_at=rfc(5), cause=cause and cause.value)
        known = {
            "attempt": 1,
            "attempt_spec_hash": HASH,
            "job_set_uid": None,
            "conditions": [],
            "restart": None,
            "history": [entry],
        }
        status = seen.run.status.model_copy(update={**known, "failures_without_checkpoint": failures})
        one = parse_jobset(jobset(restarts=2, outcome="" if cause is None else outcome))
        check_step(situation(replace(seen, run=replace(seen.run, status=status), jobsets=(one,)), wanted))


def check_step(case: Situation) -> None:
    found, before = next_step(case), first_step(BEFORE, case)
    if before is not None:
        assert found == before
    elif case.jobset is not None:
        assert isinstance(found, STEPS[decide(recovery_facts(case, case.jobset)).action])
    else:
        assert found == first_step(AFTER_ATTEMPT, case)
    if isinstance(found, Create | NewAttempt | DiscardConfigMap):
        assert not own_jobsets(case.observed), "at most one attempt has pods"
    if case.spec.suspend:
        assert isinstance(found, Keep | Stop | Wait | Rest | Finish | Finished)
    elif case.stopped and not case.released:
        assert isinstance(found, StayStalled | Keep | Finish | Finished)
