"""What the operator counts when the JobSet restarts, whether the operator was up or down."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from halcyon_operator.decide.reconcile import reconcile
from halcyon_operator.decide.record.follow import follow
from halcyon_operator.decide.record.spec_hash import RETIRED
from halcyon_operator.model.views import HeadUnreachable
from halcyon_operator.objects.jobset import build
from halcyon_operator.observe.jobsets import parse_jobset
from tests.operator.builders import (
    at,
    deleted,
    disrupted,
    ended,
    head,
    jobset,
    observed,
    pod,
    report,
    rfc,
    run,
    termination,
)

ENTRY = {"attempt": 1, "restart": 0, "startedAt": rfc(0), "fromStep": 0, "firstStepAt": rfc(5)}
BASE: dict[str, Any] = {
    "phase": "Running",
    "attempt": 1,
    "jobSetUid": "jobset-1",
    "jobSetName": "demo-1",
    "startedAt": rfc(0),
    "history": [ENTRY],
    "progress": {"step": 40, "steps": 300},
}

EVICTED = [pod(1, 0, 0, **ended(42, 12)), pod(1, 0, 1, **(ended(42, 12) | disrupted(10)))]
CRASHED = [pod(1, 0, 0, **ended(1, 11, "boom"))]
KILLED = [pod(1, 0, 0, **ended(137, 11))]
DELETED = [deleted(pod(1, 0, 0, **ended(42, 12)), 10)]


def after(status: dict[str, Any], *, pods: list[Any] = [], **seen: Any) -> Any:  # noqa: B006
    """The status after the operator has observed the JobSet."""
    restarts, counted = seen.pop("restarts", 0), seen.pop("counted", 0)
    found = jobset(restarts=restarts, counted=counted)
    everything = observed(run(status), jobsets=[found], pods=pods, **seen)
    return follow(replace(everything, now=at(60)), everything.run.status, parse_jobset(found))


@pytest.mark.parametrize(
    ("pods", "counted", "cause", "failures"),
    [
        (EVICTED, 0, "preempted", 0),
        (EVICTED, 1, "preempted", 0),  # the JobSet saw a peer's crash first; the eviction was before it
        (CRASHED, 1, "failed", 1),
        (KILLED, 1, "failed", 1),
        (DELETED, 0, "podDeleted", 0),
        ([], 0, "preempted", 0),  # the operator did not see it, and the JobSet did not count it
        ([], 1, "failed", 1),
    ],
)
def test_a_restart_is_recorded_with_its_cause(pods: list[Any], counted: int, cause: str, failures: int) -> None:
    change = after(BASE, pods=pods, restarts=1, counted=counted)
    first, second = change.status.history
    assert (first.cause, first.to_step, first.ended_at is not None) == (cause, 40, True)
    assert (second.attempt, second.restart, second.ended_at) == (1, 1, None)
    assert change.status.restarts.total == 1
    assert change.status.restarts.model_dump(by_alias=True)[cause] == 1
    assert change.status.failures_without_checkpoint == failures
    assert change.status.job_set_restarts == 1


@pytest.mark.parametrize(("counted", "cause"), [(0, "preempted"), (1, "failed")])
def test_a_restart_whose_first_ended_process_was_not_observed_has_its_cause(counted: int, cause: str) -> None:
    """As when the API server was down: the process that ended first is deleted, and its peer is seen in deletion."""
    mesh = {"replica": 2, "data": 1, "fsdp": 1, "tensor": 1}
    two = BASE | {"topology": {"slices": 2, "hosts": 2, "devices": 2, "mesh": mesh}}
    left = deleted(pod(1, 0, 1), 20)
    change = after(two, pods=[left], restarts=1, counted=counted)
    assert change.status.history[0].cause == cause
    both = after(two, pods=[deleted(pod(1, 0, 0, **ended(42, 12)), 10), left], restarts=1)
    assert both.status.history[0].cause == "podDeleted"
    waits = after(two, pods=[deleted(pod(1, 0, 0, **ended(42, 12)), 10), pod(1, 0, 1)], restarts=1)
    assert waits.status.history[0].cause == "podDeleted", "the other one exists and has not ended"


def test_a_restart_is_counted_once() -> None:
    first = after(BASE, pods=EVICTED, restarts=1).status
    again = after(first.document(), pods=EVICTED, restarts=1)
    assert (again.status.restarts.total, len(again.status.history), again.events) == (1, 2, ())


def test_many_restarts_while_the_operator_was_down_are_counted() -> None:
    change = after(BASE, pods=[pod(1, 4, 0, **ended(1, 50))], restarts=6, counted=3)
    restarts = change.status.restarts
    assert (restarts.total, restarts.failed, restarts.preempted) == (6, 3, 3)
    assert change.status.history[-1].restart == 6
    assert change.status.history[0].message == "the JobSet restarted it while the operator was down"


def test_impossible_restart_counters_are_tolerated() -> None:
    change = after(BASE, restarts=2**31 - 1, counted=2**31 - 1)
    assert change.status.restarts.total == 2**31 - 1
    back = after(change.status.document(), restarts=0)
    assert back.status.restarts.total == 2**31 - 1


def test_a_report_counts_only_for_its_own_process_group() -> None:
    fresh = BASE | {"history": [{"attempt": 1, "restart": 0, "startedAt": rfc(0)}], "progress": None}
    change = after(fresh, report=report(step=33, resumed=20))
    entry = change.status.history[-1]
    assert (entry.from_step, entry.first_step_at, change.status.progress.step) == (20, rfc(5), 33)
    assert after(fresh, report=report(restart=1, step=33)).status.progress is None
    unaware = report(step=0, resumed=None, first=None)
    assert after(BASE, report=unaware).status.progress.step == 40, (
        "a trainer that does not know its step yet must change nothing"
    )


def test_damaged_times_of_a_trainer_do_not_reach_the_status() -> None:
    fresh = BASE | {"history": [{"attempt": 1, "restart": 0, "startedAt": rfc(0)}]}
    change = after(fresh, report=report(first=None).model_copy(update={"first_step_at": "yesterday"}))
    assert change.status.history[-1].first_step_at is None


def test_a_lost_head_a_fallback_and_a_resume_are_reported_once() -> None:
    fresh = BASE | {"history": [{"attempt": 1, "restart": 0, "startedAt": rfc(0)}]}
    seen = report(step=21, resumed=20, headLoss="HEAD is empty", fallbackReason="step 30 is damaged")
    change = after(fresh, report=seen)
    assert [event.reason for event in change.events] == ["HeadRebuilt", "CheckpointFallback", "Resumed"]
    assert "HEAD is empty" in change.events[0].message
    assert "step 30 is damaged" in change.events[1].message
    assert after(change.status.document(), report=seen).events == ()


def test_the_last_steps_come_from_the_termination_message() -> None:
    pods = [pod(1, 0, 0, **(ended(42, 12, termination("preempted", 42, step=47)) | disrupted(10)))]
    assert after(BASE, pods=pods, restarts=1).status.history[0].to_step == 47


@pytest.mark.parametrize(
    ("before", "checkpoint", "failures", "count"),
    [(2, None, 1, 3), (2, 10, 1, 3), (2, 11, 0, 0), (2, 11, 1, 1), (0, 11, 5, 1), (0, 10, 5, 5)],
)
def test_failures_in_a_row_end_with_a_checkpoint(
    before: int, checkpoint: int | None, failures: int, count: int
) -> None:
    known = {"step": 10, "attempt": 1, "path": "steps/10/", "time": rfc(3)}
    status = BASE | {"failuresWithoutCheckpoint": before} | ({"checkpoint": known} if checkpoint is not None else {})
    seen = {} if checkpoint is None else {"head": head(checkpoint)}
    decision = reconcile(observed(run(status), jobsets=[jobset(restarts=failures, counted=failures)], **seen), at(60))
    assert decision.status.failures_without_checkpoint == count


def test_if_the_root_is_unreachable_the_trainers_report_is_used_and_marked() -> None:
    reported = report(checkpoint={"step": 30, "attempt": 1, "path": "steps/30/", "time": rfc(9), "sizeBytes": 5})
    out = HeadUnreachable("it lies on a volume of the pods")
    decision = reconcile(observed(run(BASE), jobsets=[jobset(in_place=False)], report=reported, head=out), at(60))
    assert (decision.status.checkpoint.step, decision.status.checkpoint.source) == (30, "trainer")
    assert "the operator cannot read the checkpoint root" in decision.status.condition("Running").message
    left = pod(1, 0, 0, **ended(42, 12, termination("preempted", 42, step=47, checkpointStep=47)))
    later = reconcile(observed(run(decision.status.document()), jobsets=[jobset()], pods=[left], head=out), at(61))
    assert later.status.checkpoint.step == 47


def test_a_given_up_checkpoint_is_not_shown_when_the_root_is_unreachable() -> None:
    """The first group had a checkpoint of step 30. It was given up, and the second one goes on from step 20."""
    out = HeadUnreachable("it lies on a volume of the pods")
    known = {"step": 30, "attempt": 1, "path": "steps/30/", "time": rfc(9), "source": "trainer"}
    status = BASE | {"checkpoint": known, "jobSetRestarts": 1}
    earlier = report(checkpoint={"step": 30, "attempt": 1, "path": "steps/30/", "time": rfc(9)})
    seen = reconcile(observed(run(status), jobsets=[jobset(restarts=1)], report=earlier, head=out), at(60))
    assert seen.status.checkpoint.step == 30
    present = report(restart=1, checkpoint={"step": 20, "attempt": 1, "path": "steps/20/", "time": rfc(7)})
    seen = reconcile(observed(run(status), jobsets=[jobset(restarts=1)], report=present, head=out), at(60))
    assert seen.status.checkpoint.step == 20


def test_a_known_checkpoint_is_not_forgotten_when_head_is_missing() -> None:
    known = {"step": 30, "attempt": 1, "path": "steps/30/", "time": rfc(9)}
    gone = run(BASE | {"checkpoint": known, "jobSetUid": None, "attempt": 2, "history": []})
    decision = reconcile(observed(gone), at(60))
    environment = build(decision.create[1])["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"][
        "containers"
    ][0]["env"]
    assert {"name": "HALCYON_RESUME_STEP", "value": "30"} in environment


def test_a_restart_of_a_jobset_that_is_being_stopped_is_not_recorded() -> None:
    closed = {
        "attempt": 1,
        "restart": 0,
        "startedAt": rfc(0),
        "firstStepAt": rfc(5),
        "fromStep": 0,
        "endedAt": rfc(50),
        "cause": "preempted",
    }
    stopping = {
        "attempt": 1,
        "attemptSpecHash": RETIRED,
        "jobSetName": "demo-1",
        "jobSetUid": "jobset-1",
        "history": [closed],
    }
    found = jobset(restarts=1, deleting=True)
    seen = observed(run(stopping), jobsets=[found])
    change = follow(replace(seen, now=at(60)), seen.run.status, parse_jobset(found)).status
    assert [(entry.restart, entry.cause) for entry in change.history] == [(0, "preempted")]
    assert change.restarts.total == 0, "only the next attempt counts"
