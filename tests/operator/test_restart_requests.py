"""A requested restart costs no step, is made once, and is never made of a suspended or finished run."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from halcyon_api import names
from halcyon_api.post_requests import request_id
from halcyon_operator.decide.reconcile import reconcile
from halcyon_operator.decide.record.edits import MAX_ACCEPT_SECONDS, MAX_SAVE_SECONDS
from halcyon_operator.decide.record.spec_hash import RETIRED
from halcyon_operator.objects.jobset import build
from tests.operator.builders import (
    EXHAUSTED,
    REFUSED,
    UID,
    at,
    ended,
    head,
    jobset,
    observed,
    pod,
    rfc,
    run,
    termination,
)
from tests.operator.simulation import SimulatedCluster
from tests.operator.test_attempts import condition, deletions, kinds, status
from tests.operator.training import messages, reconcile_training


def asked(known: dict[str, Any] | None = None, value: str = "now", **more: Any) -> dict[str, Any]:
    document = run(status() if known is None else known, **more)
    document["metadata"]["annotations"] = {names.ANNOTATION_RESTART: value}
    return document


reconciled = partial(reconcile_training, request_id("restart", f"{UID}/1/{rfc(60)}"))


def restart_of(decision: Any) -> dict[str, Any]:
    return decision.status.restart.document()


def test_a_new_value_requests_a_checkpoint_and_then_a_new_attempt() -> None:
    seen = reconciled(asked())
    assert restart_of(seen) == {"value": "now", "requestedAt": rfc(60), "attempt": 1, "outcome": "waiting"}
    assert messages(seen, "RestartPending") == [
        "A restart was asked for (now): asking for a checkpoint, from which a new attempt goes on"
    ]
    assert condition(seen, "Running") == condition(seen, "Reconciling") == ("True", "RestartPending")
    assert seen.status.condition("Ready").message.endswith("; a restart waits for a checkpoint")
    (ask,) = seen.asks
    assert (ask.request.attempt, seen.delete, seen.requeue_after) == (1, (), 2)

    taken = reconciled(asked(seen.status.document()), taken=21, step=21)
    assert (taken.asks, taken.delete, taken.status.restart.asked_step) == ((), (), 21)
    late = reconciled(asked(taken.status.document()), taken=21, step=25, saved=20)
    assert late.delete == (), "a checkpoint from before the request must not count"
    saved = reconciled(asked(taken.status.document()), taken=21, step=25, saved=22)
    assert deletions(saved) == [("JobSet", "demo-1")]
    assert (saved.status.history[-1].cause, saved.status.history[-1].message) == (
        "requested",
        "a restart was asked for (now); saved at step 22",
    )
    assert saved.status.attempt_spec_hash == RETIRED

    minted = reconcile(observed(asked(saved.status.document()), head=head(22)), at(70))
    assert (minted.status.attempt, minted.status.edit, restart_of(minted)["outcome"]) == (2, None, "restarted")
    assert messages(minted, "Restarted") == ["Attempt 2 follows as was asked for (now), from step 22 on"]
    assert (minted.status.restarts.requested, minted.status.restarts.total) == (1, 1)


def test_a_request_is_served_once_until_its_value_changes() -> None:
    done = {"value": "now", "requestedAt": rfc(50), "attempt": 0, "outcome": "restarted"}
    same = reconciled(asked(status(restart=done)))
    assert (same.delete, same.asks, messages(same, "RestartPending")) == ((), (), [])
    again = reconciled(asked(status(restart=done), "again"))
    assert (restart_of(again)["value"], len(again.asks)) == ("again", 1)
    gone = reconciled(run(status(restart=done)))
    assert restart_of(gone) == done, "without the annotation the record must stay"


def test_one_restart_serves_all_requests_made_before_it() -> None:
    first = reconciled(asked())
    second = reconciled(asked(first.status.document(), "impatient"), now=62, taken=21, step=21)
    assert (restart_of(second)["value"], restart_of(second)["askedStep"], second.asks) == ("impatient", 21, ())
    saved = reconciled(asked(second.status.document(), "impatient"), now=63, taken=21, step=21, saved=21)
    assert deletions(saved) == [("JobSet", "demo-1")]
    minted = reconcile(observed(asked(saved.status.document(), "impatient"), head=head(21)), at(70))
    assert (minted.status.attempt, restart_of(minted)["outcome"]) == (2, "restarted")


@pytest.mark.parametrize("stage", ["compiling", "ended"])
def test_a_restart_needs_no_checkpoint_while_no_process_trains(stage: str) -> None:
    begun = [{"attempt": 1, "restart": 0, "startedAt": rfc(0)}]
    more: dict[str, Any] = {"stage": "compiling"} if stage == "compiling" else {"pods": [pod(**ended(1, 59, "boom"))]}
    if stage == "ended":
        begun[0] |= {"endedAt": rfc(50), "cause": "preempted", "message": "evicted"}
    decision = reconciled(asked(status(history=begun)), **more)
    assert deletions(decision) == [("JobSet", "demo-1")]
    assert messages(decision, "RestartPending") == ["A restart was asked for (now): a new attempt is made at once"]


@pytest.mark.parametrize(
    ("reported", "taken", "limit"),
    [
        ({}, None, MAX_ACCEPT_SECONDS),
        ({"checkpointError": "denied"}, 21, MAX_ACCEPT_SECONDS),
        ({}, 21, MAX_SAVE_SECONDS),
    ],
)
def test_the_wait_for_a_trainer_that_does_not_save_is_bounded(
    reported: dict[str, Any], taken: int | None, limit: float
) -> None:
    document = asked(reconciled(asked()).status.document())
    assert reconciled(document, now=60 + limit - 1, reported=reported, taken=taken).delete == ()
    assert deletions(reconciled(document, now=60 + limit, reported=reported, taken=taken)) == [("JobSet", "demo-1")]


def test_a_waiting_edit_takes_effect_with_the_restart() -> None:
    both = reconciled(asked(status(inForce={"trainer.steps": "300"}), generation=2, image="other:2"))
    assert both.status.edit.fields[0] == "image"
    assert condition(both, "Running") == ("True", "EditPending")
    saved = reconciled(asked(both.status.document(), generation=2, image="other:2"), taken=21, step=21, saved=21)
    assert (deletions(saved), saved.status.history[-1].cause) == ([("JobSet", "demo-1")], "specChanged")
    minted = reconcile(observed(asked(saved.status.document(), generation=2, image="other:2"), head=head(21)), at(70))
    assert (minted.status.edit, restart_of(minted)["outcome"], minted.status.restarts.total) == (None, "restarted", 1)


def test_a_run_that_has_not_started_is_not_started_twice() -> None:
    first = reconcile(observed(asked({})), at(60))
    assert (first.status.attempt, restart_of(first)["outcome"]) == (1, "passedOver")
    assert messages(first, "RestartPassedOver") == [
        "The restart that was asked for (now) is passed over: the run has not begun"
    ]
    story = SimulatedCluster(asked({}))
    story.settle()
    assert story.status["attempt"] == 1


def test_an_attempt_without_pods_counts_as_the_restart() -> None:
    minted = status(jobSetUid=None, history=[])
    decision = reconcile(observed(asked(minted)), at(60))
    assert (restart_of(decision)["outcome"], kinds(decision)) == (
        "restarted",
        [("ConfigMap", "demo-1"), ("JobSet", "demo-1")],
    )
    waits = jobset() | {"spec": {"suspend": True}}
    waits["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "team"
    queued = reconciled(asked(status(history=[])), jobsets=[waits], pods=[], stage="none", saved=None)
    assert (restart_of(queued)["outcome"], queued.delete) == ("restarted", ()), "it must keep its place in the queue"


@pytest.mark.parametrize("more", [{"jobsets": []}, {"jobsets": [jobset(deleting=True)]}])
def test_an_attempt_that_is_replaced_anyway_is_replaced_once(more: dict[str, Any]) -> None:
    decision = reconciled(asked(), pods=[], **more)
    assert decision.delete == ()
    assert restart_of(decision)["outcome"] == ("restarted" if decision.status.attempt == 2 else "waiting")


def test_a_suspended_run_ignores_the_request_and_resumes_once() -> None:
    story = SimulatedCluster(run())
    story.settle()
    story.train(20)
    story.settle()
    story.suspend(20)
    story.annotate("now", names.ANNOTATION_RESTART)
    story.settle()
    assert (story.status["phase"], story.status["restart"]["outcome"]) == ("Suspended", "passedOver")
    story.edit(suspend=False)
    story.settle()
    story.train(30)
    story.settle()
    assert (story.status["phase"], story.status["attempt"], story.status["restarts"]["total"]) == ("Running", 2, 1)


@pytest.mark.parametrize("meanwhile", ["suspended", "completed"])
def test_a_run_that_is_suspended_or_ends_before_its_restart_is_not_restarted(meanwhile: str) -> None:
    story = SimulatedCluster(run())
    story.settle()
    story.train(20)
    story.settle()
    story.annotate("now", names.ANNOTATION_RESTART)
    story.settle()
    assert story.status["restart"]["outcome"] == "waiting"
    if meanwhile == "suspended":
        story.suspend(20)
    else:
        story.head = head(300)
        story.end_jobset("Completed")
    story.settle()
    assert (story.status["phase"], story.status["restart"]["outcome"]) == (
        "Suspended" if meanwhile == "suspended" else "Succeeded",
        "passedOver",
    )


def test_a_finished_run_ignores_the_request() -> None:
    story = SimulatedCluster(run())
    story.settle()
    story.head = head(300)
    story.end_jobset("Completed")
    story.settle()
    story.annotate("now", names.ANNOTATION_RESTART)
    story.settle()
    assert (story.status["phase"], story.status["attempt"], story.status["restart"]["outcome"]) == (
        "Succeeded",
        1,
        "passedOver",
    )


def test_a_restart_request_continues_a_stopped_crash_loop_with_a_new_budget() -> None:
    before = status(jobSetRestarts=3, jobSetRestartsCounted=3, failuresWithoutCheckpoint=3)
    failed = jobset(restarts=3, counted=3, outcome="Failed", reason=EXHAUSTED)
    stopped = reconcile(observed(run(before), jobsets=[failed], pods=[pod(1, 3, **ended(1, 55, "boom"))]), at(60))
    assert condition(stopped, "Stalled") == ("True", "RestartsExhausted")
    seen = reconcile(observed(asked(stopped.status.document()), jobsets=[failed]), at(500))
    assert (seen.status.phase, deletions(seen), seen.status.failures_without_checkpoint) == (
        "Restarting",
        [("JobSet", "demo-1")],
        0,
    )
    minted = reconcile(observed(asked(seen.status.document())), at(510))
    assert (minted.status.attempt, minted.status.restarts.failed, restart_of(minted)["outcome"]) == (2, 1, "restarted")
    created = reconcile(observed(asked(minted.status.document())), at(511))
    assert build(created.create[1])["spec"]["failurePolicy"]["maxRestarts"] == 1, "three, of which two are in place"
    swept = reconcile(observed(asked(stopped.status.document())), at(500))
    assert (swept.status.attempt, swept.status.failures_without_checkpoint) == (2, 0), (
        "also if all objects of the attempt are deleted"
    )


def test_a_requested_restart_of_a_stopped_run_is_not_counted_as_an_edit() -> None:
    left = pod(**ended(84, 55, termination("rootTaken", 84, message="it is another run's")))
    failed = jobset(outcome="Failed", reason=REFUSED)
    stopped = reconcile(observed(run(status()), jobsets=[failed], pods=[left]), at(60))
    assert condition(stopped, "Stalled") == ("True", "CheckpointRootTaken")
    seen = reconcile(observed(asked(stopped.status.document()), jobsets=[failed]), at(70))
    minted = reconcile(observed(asked(seen.status.document())), at(80))
    assert (minted.status.restarts.requested, minted.status.restarts.spec_changed) == (1, 0)


def test_a_run_with_an_invalid_document_is_restarted_only_after_the_fix() -> None:
    broken = reconciled(asked(trainer__microbatches=64))
    assert (broken.delete, broken.status.restart) == ((), None)
    assert condition(broken, "Stalled") == ("True", "InvalidSpec")
    fixed = reconciled(asked(broken.status.document(), generation=2))
    assert (restart_of(fixed)["outcome"], len(fixed.asks)) == ("waiting", 1)


def test_values_of_any_kind_are_bounded_and_harmless() -> None:
    decision = reconciled(asked(value="x\n\x00" * 10_000))
    assert len(restart_of(decision)["value"]) <= 253
    assert reconciled(asked(value="   ")).status.restart is None
    spoiled = status(restart={"value": "now", "outcome": "no such", "attempt": -3})
    assert reconciled(run(spoiled)).delete == ()


def test_a_requested_restart_survives_the_death_of_operator_and_process_group() -> None:
    story = SimulatedCluster(run())
    story.settle()
    story.train(20)
    story.annotate("new nodes", names.ANNOTATION_RESTART)
    story.settle()
    assert [(where, step) for _, where, step in story.asked] == [((1, 0), 20)]
    story._start_operator()
    story.settle()
    assert (len(story.asked), story.status["restart"]["askedStep"]) == (1, 20)
    story.head = head(20)
    story.settle()
    story.train(20, resumed=20)
    story.settle()
    story._start_operator()
    story.settle()
    assert (story.status["phase"], story.status["attempt"], story.status["restart"]["outcome"]) == (
        "Running",
        2,
        "restarted",
    )
    assert {cause: count for cause, count in story.status["restarts"].items() if count} == {"total": 1, "requested": 1}
