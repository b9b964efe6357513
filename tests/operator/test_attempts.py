"""The next step for every state of a run and its objects."""

from __future__ import annotations

from typing import Any

import pytest

from halcyon_api.names import MAX_ATTEMPT
from halcyon_operator.decide.reconcile import reconcile
from halcyon_operator.decide.record.follow import MAX_ATTEMPTS_AHEAD
from halcyon_operator.decide.record.spec_hash import RETIRED, attempt_spec_hash
from halcyon_operator.model.views import HeadReading, HeadUnreachable, ObjectView
from halcyon_operator.objects.jobset import build
from halcyon_operator.observe.runs import parse_run_view
from tests.operator.builders import (
    EXHAUSTED,
    REFUSED,
    UID,
    at,
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

HASH = attempt_spec_hash(parse_run_view(run()).spec)
NOW = at(60)
OWN_CONFIG_MAP = ObjectView("ConfigMap", "demo-1", "cm-1", UID, deleting=False)


def status(attempt: int = 1, **more: Any) -> dict[str, Any]:
    """The status of a run that trains."""
    return {
        "phase": "Running",
        "attempt": attempt,
        "attemptSpecHash": HASH,
        "jobSetName": f"demo-{attempt}",
        "jobSetUid": f"jobset-{attempt}",
        "startedAt": rfc(0),
        "history": [{"attempt": attempt, "restart": 0, "startedAt": rfc(0), "fromStep": 0, "firstStepAt": rfc(5)}],
        **more,
    }


def stalled(reason: str, generation: int = 1, **more: Any) -> dict[str, Any]:
    condition = {
        "type": "Stalled",
        "status": "True",
        "reason": reason,
        "message": "m",
        "observedGeneration": generation,
    }
    return status(phase="Failed", conditions=[condition | {"lastTransitionTime": rfc(50)}], **more)


def deletions(decision: Any) -> list[tuple[str, str]]:
    return [(deletion.kind, deletion.name) for deletion in decision.delete]


def kinds(decision: Any) -> list[tuple[str, str]]:
    return [(manifest["kind"], manifest["metadata"]["name"]) for manifest in map(build, decision.create)]


def condition(decision: Any, kind: str) -> tuple[str, str]:
    found = decision.status.condition(kind)
    return found.status, found.reason


def test_a_new_run_gets_a_number_first_and_objects_after() -> None:
    first = reconcile(observed(run()), NOW)
    assert (first.status.attempt, first.status.job_set_uid, first.create) == (1, None, ())
    assert first.requeue_after == 0
    second = reconcile(observed(run(first.status.document())), NOW)
    assert kinds(second) == [("ConfigMap", "demo-1"), ("JobSet", "demo-1")]
    third = reconcile(observed(run(first.status.document()), jobsets=[jobset()]), NOW)
    assert (third.status.job_set_uid, third.create) == ("jobset-1", ())
    assert {entry.type for entry in third.status.conditions} >= {
        "Ready",
        "Reconciling",
        "Stalled",
        "Succeeded",
        "Suspended",
        "Queued",
    }


def test_a_number_whose_jobset_existed_is_never_used_again() -> None:
    decision = reconcile(observed(run(status())), NOW)
    assert (decision.status.attempt, decision.create) == (2, ())
    assert decision.status.restarts.job_set_deleted == 1
    assert decision.status.history[-1].cause == "jobSetDeleted"


def test_an_attempt_number_that_is_an_epoch_in_the_root_is_skipped() -> None:
    decision = reconcile(observed(run(status(jobSetUid=None)), head=head(40, epoch=(1, 0))), NOW)
    assert (decision.status.attempt, decision.create) == (2, ())


def test_a_recreated_run_continues_above_the_epoch_in_its_root() -> None:
    decision = reconcile(observed(run(), head=head(100, epoch=(7, 2))), NOW)
    assert decision.status.attempt == 8
    created = reconcile(observed(run(decision.status.document()), head=head(100, epoch=(7, 2))), NOW)
    environment = build(created.create[1])["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"][
        "containers"
    ][0]["env"]
    assert {"name": "HALCYON_RESUME_STEP", "value": "100"} in environment


@pytest.mark.parametrize(
    ("left", "step"),
    [
        ({"jobsets": [jobset(1)]}, "delete"),
        ({"jobsets": [jobset(1, deleting=True)]}, "wait"),
        ({"pods": [pod()]}, "wait"),
        ({"config_map": OWN_CONFIG_MAP}, "discard"),
        ({}, "mint"),
    ],
)
@pytest.mark.parametrize(
    ("cause", "count"),
    [
        ("specChanged", "spec_changed"),
        ("suspended", "resumed"),
        ("failed", "failed"),
        ("fenced", "fenced"),
        ("runChanged", "spec_changed"),
    ],
)
def test_leftovers_of_an_attempt_are_removed_before_the_next_attempt(
    left: dict[str, Any], step: str, cause: str, count: str
) -> None:
    closed = [{"attempt": 1, "restart": 0, "startedAt": rfc(0), "endedAt": rfc(50), "cause": cause}]
    decision = reconcile(observed(run(status(attemptSpecHash=RETIRED, history=closed)), **left), NOW)
    assert decision.create == ()
    assert deletions(decision) == {"delete": [("JobSet", "demo-1")], "discard": [("ConfigMap", "demo-1")]}.get(step, [])
    if step == "mint":
        assert decision.status.attempt == 2
        assert getattr(decision.status.restarts, count) == decision.status.restarts.total == 1
    else:
        assert (decision.status.attempt, decision.status.restarts.total) == (1, 0)
        assert condition(decision, "Reconciling")[0] == "True"


def test_an_edit_stops_the_attempt_on_record_before_deleting_it() -> None:
    decision = reconcile(observed(run(status(), image="other:2", generation=2), jobsets=[jobset()]), NOW)
    assert deletions(decision) == [("JobSet", "demo-1")]
    assert decision.status.attempt_spec_hash == RETIRED
    assert decision.status.history[-1].cause == "specChanged"
    # The edit is undone before the deletion is carried out: the attempt ends nevertheless.
    again = reconcile(observed(run(decision.status.document(), generation=3), jobsets=[jobset()]), NOW)
    assert deletions(again) == [("JobSet", "demo-1")]


def test_suspension_and_back() -> None:
    stop = reconcile(observed(run(status(), suspend=True), jobsets=[jobset()], pods=[pod()]), NOW)
    assert (stop.status.phase, deletions(stop)) == ("Suspending", [("JobSet", "demo-1")])
    waiting = reconcile(observed(run(stop.status.document(), suspend=True), pods=[pod()]), NOW)
    assert (waiting.status or stop.status).phase == "Suspending"
    rest = reconcile(observed(run(stop.status.document(), suspend=True), head=head(42)), NOW)
    assert (rest.status.phase, rest.requeue_after) == ("Suspended", None)
    assert "step 42" in rest.status.condition("Suspended").message
    back = reconcile(observed(run(rest.status.document())), NOW)
    assert (back.status.attempt, back.status.restarts.resumed) == (2, 1)


def test_the_last_progress_comes_from_the_termination_message() -> None:
    left = termination("completed", 0, step=300, progress={"step": 300, "steps": 300, "loss": 1.25, "bitsPerByte": 2.5})
    pods = [pod(**ended(0, 90, left)), pod(slice_index=1, **ended(0, 90, termination("completed", 0, step=300)))]
    done = reconcile(observed(run(status()), jobsets=[jobset(outcome="Completed")], pods=pods, head=head(300)), NOW)
    assert (done.status.progress.step, done.status.progress.loss, done.status.progress.bits_per_byte) == (
        300,
        1.25,
        2.5,
    )


def test_a_run_that_stopped_early_has_succeeded_and_says_so() -> None:
    progress = {"step": 120, "steps": 300, "tokens": 9, "bestStep": 80, "bestEvaluation": 1.23456, "stoppedEarly": True}
    left = termination("completed", 0, step=120, progress=progress)
    pods = [pod(**ended(0, 90, left)), pod(slice_index=1, **ended(0, 90, termination("completed", 0, step=120)))]
    watched = {"trainer": {"evaluation": {"everySteps": 40, "best": {"patience": 1}}}}
    document = run(status())
    for name, section in watched["trainer"].items():
        document["spec"]["trainer"][name] = section
    for seen in (pods, []):
        done = reconcile(observed(document, jobsets=[jobset(outcome="Completed")], pods=seen, head=head(120)), at(200))
        assert (done.status.phase, done.status.progress.step, done.status.progress.steps) == ("Succeeded", 120, 300)
        best = "; the best evaluation is that of step 80" if seen else ""
        early = f"stopped early after step 120 of 300, because its evaluations did not improve{best}"
        assert done.status.condition("Ready").message.startswith(early)
        assert done.status.history[-1].to_step == 120
    assert reconcile(observed(document | {"status": done.status.document()}, head=head(120)), at(9999)).create == ()


def test_exit_code_0_before_the_last_step_is_no_success() -> None:
    """As when a program in the image ends at a signal.

    Nothing is known to be done but what a checkpoint or a report shows.
    """
    completed, early = (
        [jobset(outcome="Completed")],
        termination("completed", 0, step=20, progress={"step": 20, "steps": 300}),
    )
    pods = [pod(**ended(0, 90, early)), pod(slice_index=1, **ended(0, 90, termination("completed", 0, step=20)))]
    out = HeadUnreachable("it lies on a volume")
    for seen in (
        {"pods": pods, "head": head(20)},
        {"pods": pods, "head": out},
        {"head": head(20)},
        {"gone": pods, "head": out},
    ):
        first = reconcile(observed(run(status()), jobsets=completed, **seen), at(110))
        known = "pods" in seen or "gone" in seen
        assert (first.status.phase == "Failed") == known, "the last report or checkpoint may still come"
        late = reconcile(observed(run(first.status.document()), jobsets=completed, **seen), at(140))
        found = late.status or first.status
        assert condition(late if late.status else first, "Stalled") == ("True", "EndedEarly")
        assert "only 20 of 300 steps are known to be done" in found.condition("Stalled").message
        assert (found.history[-1].cause, found.progress.step if found.progress else 20) == ("endedEarly", 20)
        again = reconcile(
            observed(run(found.document(), generation=2, image="other:2"), jobsets=completed, **seen), at(150)
        )
        assert deletions(again) == [("JobSet", "demo-1")], "an edit begins the next attempt"
        assert (
            reconcile(observed(run(found.document()), jobsets=completed, head=head(300)), at(150)).status.phase
            == "Succeeded"
        )


@pytest.mark.parametrize("stopped", [False, True])
def test_a_report_of_steps_that_head_does_not_have_is_no_success(stopped: bool) -> None:
    """The document has no ``evaluation.best.patience``, so no report can say that it stopped early."""
    progress = {"step": 120 if stopped else 300, "steps": 300, "stoppedEarly": stopped}
    pods = [pod(**ended(0, 90, termination("completed", 0, step=300, progress=progress)))]
    for root in (head(120), head()):
        seen = observed(run(status()), jobsets=[jobset(outcome="Completed")], pods=pods, head=root)
        assert reconcile(seen, at(110)).status.phase == "Running", "the last checkpoint may still be seen"
        late = reconcile(seen, at(140))
        assert condition(late, "Stalled") == ("True", "EndedEarly")
        known = 120 if root == head(120) else 0
        assert f"only {known} of 300 steps" in late.status.condition("Stalled").message


def test_the_steps_of_an_attempt_are_those_that_it_was_made_with() -> None:
    """The edit that raises them came too late for it: the attempt is done, and another one follows."""
    made = status(inForce={"trainer.steps": "300"})
    left = termination("completed", 0, step=300, progress={"step": 300, "steps": 300})
    found = reconcile(
        observed(
            run(made, trainer__steps=400),
            jobsets=[jobset(outcome="Completed")],
            pods=[pod(**ended(0, 90, left))],
            head=HeadUnreachable("it lies on a volume"),
        ),
        at(110),
    )
    assert found.status.history[-1].cause == "completed"
    assert deletions(found) == [("JobSet", "demo-1")]


def test_a_completed_run_is_never_started_again() -> None:
    done = reconcile(observed(run(status()), jobsets=[jobset(outcome="Completed")], head=head(300)), NOW)
    assert (done.status.phase, done.status.progress.step, done.status.checkpoint.step) == ("Succeeded", 300, 300)
    assert condition(done, "Ready") == ("True", "Succeeded")
    document = done.status.document()
    for later in (run(document), run(document, suspend=True), run(document, image="other:2", generation=5)):
        assert reconcile(observed(later, head=head(300)), at(9999)).create == ()
    vanished = reconcile(observed(run(status()), head=head(300)), NOW)
    assert vanished.status.phase == "Succeeded", "the JobSet was deleted, but the last step is committed"


@pytest.mark.parametrize(("exported", "attempt"), [(None, 2), (250, 2), (300, 1)])
def test_a_run_whose_last_export_is_missing_gets_another_attempt(exported: int | None, attempt: int) -> None:
    """The last step is committed; the JobSet is gone: evicted, suspended, resized, deleted, or failed on its
    exports.
    """
    progress = {"step": 300, "steps": 300} | ({} if exported is None else {"exportedStep": exported})
    document = run(status(progress=progress), export={"everySteps": 50})
    found = reconcile(observed(document, head=head(300)), NOW)
    assert found.status.attempt == attempt
    assert (found.status.phase == "Succeeded") == (attempt == 1)


def test_time_to_live_deletes_a_succeeded_run_only_in_the_observed_version() -> None:
    document = reconcile(
        observed(run(status()), jobsets=[jobset(outcome="Completed")], head=head(300)), NOW
    ).status.document()
    finished = run(document, ttlSecondsAfterFinished=100)
    early = reconcile(observed(finished, jobsets=[jobset(outcome="Completed")]), at(150))
    assert (deletions(early), early.requeue_after) == ([], 50)
    late = reconcile(observed(finished, jobsets=[jobset(outcome="Completed")]), at(201))
    assert deletions(late) == [("TrainingRun", "demo")], "with all that it owns"
    assert (late.delete[0].uid, late.delete[0].resource_version) == (UID, "1")
    assert [event.message for event in late.events if event.reason == "Expired"] == [
        "Deleted 100 s after it succeeded; its checkpoints stay in s3://bucket/demo"
    ]
    for kept in (stalled("Diverged"), status(phase="Suspended")):
        decision = reconcile(
            observed(run(kept, ttlSecondsAfterFinished=0, suspend=kept["phase"] == "Suspended")), at(9999)
        )
        assert "TrainingRun" not in [kind for kind, _ in deletions(decision)], "only a run that has succeeded has ended"


@pytest.mark.parametrize(
    ("cause", "code", "reason"),
    [
        ("badConfiguration", 80, "BadConfiguration"),
        ("noValidCheckpoint", 82, "NoValidCheckpoint"),
        ("runChanged", 83, "RunChanged"),
        ("rootTaken", 84, "CheckpointRootTaken"),
    ],
)
def test_a_reserved_exit_code_stops_the_run_with_the_trainers_sentence(cause: str, code: int, reason: str) -> None:
    left = pod(**ended(code, 55, termination(cause, code, message="data.sources differs")))
    failed = jobset(outcome="Failed", reason=REFUSED)
    decision = reconcile(observed(run(status()), jobsets=[failed], pods=[left]), NOW)
    assert (decision.status.phase, deletions(decision), kinds(decision)) == ("Failed", [], [])
    assert condition(decision, "Stalled") == condition(decision, "Failed") == ("True", reason)
    assert "data.sources differs" in decision.status.condition("Ready").message
    assert [event.reason for event in decision.events if event.reason == reason] == [reason]
    # The decision stays when the pods are deleted, and when a new operator sees the run for the first time.
    document = decision.status.document()
    for later in ([failed], []):
        again = reconcile(observed(run(document), jobsets=later), at(500))
        assert (again.status, again.create, again.delete) == (None, (), ())
    # Any edit starts it again.
    edited = reconcile(observed(run(document, generation=2), jobsets=[failed], pods=[left]), at(500))
    assert (edited.status.phase, deletions(edited)) == ("Restarting", [("JobSet", "demo-1")])
    # Also if the deletion is not carried out at once.
    again = reconcile(observed(run(edited.status.document(), generation=2), jobsets=[failed], pods=[left]), at(501))
    assert deletions(again) == [("JobSet", "demo-1")]


def test_a_reserved_exit_code_without_a_message_stops_the_run_too() -> None:
    decision = reconcile(observed(run(status()), jobsets=[jobset(outcome="Failed", reason=REFUSED)]), NOW)
    assert condition(decision, "Stalled") == ("True", "TrainerStopped")


@pytest.mark.parametrize(
    ("edit", "starts_again"),
    [
        ({"ttlSecondsAfterFinished": 60}, False),
        ({"telemetry__statusIntervalSeconds": 30}, False),
        ({"after": {"run": "other"}}, False),
        ({"image": "other:2"}, True),
        ({"recovery__maxRestarts": 9}, True),
        ({"trainer__microbatches": 2}, True),
        ({"ttlSecondsAfterFinished": 60, "recovery__maxRestarts": 9}, True),
    ],
)
def test_a_stopped_run_starts_again_only_after_an_edit_that_may_fix_it(
    edit: dict[str, Any], starts_again: bool
) -> None:
    fields = parse_run_view(run()).fields
    pods = [pod(**ended(86, 50, termination("diverged", 86)))]
    stopped = reconcile(
        observed(run(status(inForce=fields)), jobsets=[jobset(outcome="Failed", reason=REFUSED)], pods=pods), NOW
    )
    assert condition(stopped, "Stalled") == ("True", "Diverged")
    again = reconcile(
        observed(
            run(stopped.status.document(), generation=2, **edit),
            jobsets=[jobset(outcome="Failed", reason=REFUSED)],
            pods=pods,
        ),
        at(60),
    )
    assert (deletions(again) == [("JobSet", "demo-1")]) == starts_again
    later = reconcile(
        observed(
            run((again.status or stopped.status).document(), generation=2, **edit),
            jobsets=[jobset(outcome="Failed", reason=REFUSED)],
            pods=pods,
        ),
        at(90),
    )
    assert (deletions(later) == [("JobSet", "demo-1")]) == starts_again, "the decision must stay"


@pytest.mark.parametrize("changed", [{}, {"trainer__steps": 200}, {"suspend": True}])
def test_a_recreated_run_on_a_finished_root_succeeds_at_once(changed: dict[str, Any]) -> None:
    decision = reconcile(observed(run(**changed), head=head(300, epoch=(7, 2))), NOW)
    if changed.get("suspend"):
        assert (decision.create, decision.status.phase) == ((), "Suspended")
        return
    assert (decision.create, decision.status.phase, decision.status.attempt) == ((), "Succeeded", 0)
    assert decision.status.progress.step == decision.status.progress.steps == (changed.get("trainer__steps") or 300)
    assert "already holds step 300 of an earlier run of this name" in decision.status.condition("Succeeded").message
    more = reconcile(
        observed(run(decision.status.document(), trainer__steps=400, generation=2), head=head(300, epoch=(7, 2))), NOW
    )
    assert more.status.attempt == 8, "with more steps it must train on"


def test_a_finished_root_of_another_run_is_no_success() -> None:
    decision = reconcile(observed(run(), head=head(300, owner=("default", "other"))), NOW)
    assert condition(decision, "Stalled") == ("True", "CheckpointRootTaken")


def test_a_clock_that_is_set_back_does_not_stop_progress_updates() -> None:
    first = reconcile(observed(run(status()), jobsets=[jobset()], report=report(step=10)), at(5000)).status
    seen = {"jobsets": [jobset()], "report": report(step=20), "progress_written_at": at(5000)}
    later = reconcile(observed(run(first.document()), **seen), at(1400))
    assert later.status is not None
    assert later.status.progress.step == 20


def test_exhausted_restarts_without_progress_stop_the_run() -> None:
    crash = pod(1, 3, **ended(1, 55, "boom"))
    before = status(jobSetRestarts=3, jobSetRestartsCounted=3, failuresWithoutCheckpoint=3)
    decision = reconcile(
        observed(
            run(before), jobsets=[jobset(restarts=3, counted=3, outcome="Failed", reason=EXHAUSTED)], pods=[crash]
        ),
        NOW,
    )
    assert condition(decision, "Stalled") == ("True", "RestartsExhausted")
    assert decision.status.failures_without_checkpoint == 4
    assert "boom" in decision.status.condition("Stalled").message


def test_exhausted_restarts_with_progress_get_a_new_attempt_with_the_rest_of_the_budget() -> None:
    crash = pod(1, 3, **ended(1, 55, "boom"))
    before = status(jobSetRestarts=3, jobSetRestartsCounted=3, failuresWithoutCheckpoint=1)
    failed = jobset(restarts=3, counted=3, outcome="Failed", reason=EXHAUSTED)
    decision = reconcile(observed(run(before), jobsets=[failed], pods=[crash]), NOW)
    assert (decision.status.phase, deletions(decision)) == ("Restarting", [("JobSet", "demo-1")])
    minted = reconcile(observed(run(decision.status.document())), NOW)
    assert (minted.status.attempt, minted.status.restarts.failed) == (2, 1)
    created = reconcile(observed(run(minted.status.document())), NOW)
    container = build(created.create[1])["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"][
        "containers"
    ][0]
    assert {"name": "HALCYON_RESTARTS_LEFT", "value": "1"} in container["env"]


def test_a_preemption_that_the_jobset_counts_as_a_failure_uses_no_budget() -> None:
    pods = [pod(1, 3, 0, **ended(1, 56)), pod(1, 3, 1, **(ended(42, 57) | disrupted(55)))]
    before = status(jobSetRestarts=3, jobSetRestartsCounted=3, failuresWithoutCheckpoint=3)
    failed = jobset(restarts=3, counted=3, outcome="Failed", reason=EXHAUSTED)
    decision = reconcile(observed(run(before), jobsets=[failed], pods=pods), NOW)
    assert (decision.status.phase, decision.status.failures_without_checkpoint) == ("Restarting", 3)


def test_a_fenced_attempt_is_followed_by_one_above_the_epoch_even_if_the_root_cannot_be_read() -> None:
    fenced = pod(**ended(81, 55, termination("fenced", 81, epochAttempt=6)))
    out = HeadUnreachable("it lies on a volume")
    failed = jobset(outcome="Failed", reason=REFUSED)
    stop = reconcile(observed(run(status()), jobsets=[failed], pods=[fenced], head=out), NOW)
    assert (deletions(stop), stop.status.root_attempt) == ([("JobSet", "demo-1")], 6)
    minted = reconcile(observed(run(stop.status.document()), head=out), NOW)
    assert (minted.status.attempt, minted.status.restarts.fenced) == (7, 1)


@pytest.mark.parametrize(
    ("root", "known"), [(HeadUnreachable("it lies on a volume"), 1 + MAX_ATTEMPTS_AHEAD), (head(5, epoch=(1, 0)), 1)]
)
def test_a_report_of_a_fence_cannot_use_up_the_numbers_of_attempts(root: HeadReading, known: int) -> None:
    fenced = pod(**ended(81, 55, termination("fenced", 81, epochAttempt=MAX_ATTEMPT)))
    failed = jobset(outcome="Failed", reason=REFUSED)
    stop = reconcile(observed(run(status()), jobsets=[failed], pods=[fenced], head=root), NOW)
    assert stop.status.root_attempt == known
    minted = reconcile(observed(run(stop.status.document()), head=root), NOW)
    assert minted.status.attempt == known + 1


def test_a_run_that_is_fenced_three_times_in_a_row_stops() -> None:
    entry = {"startedAt": rfc(0), "endedAt": rfc(1), "cause": "fenced"}
    history = [entry | {"attempt": n, "restart": 0} for n in (1, 2)] + [
        {"attempt": 3, "restart": 0, "startedAt": rfc(2)}
    ]
    fenced = pod(3, **ended(81, 55, termination("fenced", 81, attempt=3)))
    seen = observed(
        run(status(3, history=history)), jobsets=[jobset(3, outcome="Failed", reason=REFUSED)], pods=[fenced]
    )
    assert condition(reconcile(seen, NOW), "Stalled") == ("True", "Fenced")


def test_a_foreign_root_is_rejected_before_any_pod_is_created() -> None:
    decision = reconcile(observed(run(), head=head(5, epoch=(9, 0), owner=("other", "run"))), NOW)
    assert (decision.status.attempt, decision.create, decision.status.checkpoint) == (0, (), None)
    assert condition(decision, "Stalled") == ("True", "CheckpointRootTaken")
    assert "other/run" in decision.status.condition("Stalled").message


SAMPLER: dict[str, Any] = {
    "task": "sample",
    "data": {"sources": [{"name": "asked", "jsonl": {"paths": ["/data/rows.jsonl"]}, "format": {"prompt": {}}}]},
    "objective": {
        "policy": {"reward": "gsm8k", "groupSize": 4, "maxTokens": 16, "delaySteps": 1, "sampledBy": "samplers"}
    },
}


def test_a_sampler_works_in_the_root_of_its_run() -> None:
    sampler = run(**SAMPLER)
    decision = reconcile(observed(sampler, head=head(300, epoch=(9, 0), owner=("other", "run"))), NOW)
    status = decision.status
    assert (status.attempt, status.resume_step) == (10, 300), "the checkpoints of its run are its progress"
    assert condition(decision, "Stalled")[0] == "False"


def test_names_in_use_are_reported_and_their_objects_are_left_unchanged() -> None:
    foreign = jobset()
    foreign["metadata"]["ownerReferences"][0]["uid"] = "somebody-else"
    minted = run(status(jobSetUid=None, history=[]))
    taken = reconcile(observed(minted, jobsets=[foreign]), NOW)
    assert condition(taken, "Stalled") == ("True", "NameTaken")
    assert (taken.delete, taken.create) == ((), ())
    other = ObjectView("ConfigMap", "demo-1", "x", "somebody-else", deleting=False)
    assert condition(reconcile(observed(minted, config_map=other), NOW), "Stalled") == ("True", "NameTaken")
    freed = reconcile(observed(run(taken.status.document())), NOW)
    assert kinds(freed) == [("ConfigMap", "demo-1"), ("JobSet", "demo-1")], "it must start when the name is free"


def test_an_invalid_document_creates_no_object_and_reports_the_fault() -> None:
    decision = reconcile(observed(run(trainer__microbatches=64)), NOW)
    assert decision.create == ()
    assert condition(decision, "Stalled") == ("True", "InvalidSpec")
    assert "give trainer.microbatches at most" in decision.status.condition("Stalled").message
    misspelt = reconcile(observed(run(trainer__batchsize=8)), NOW)
    assert "trainer.batchsize: unknown field" in misspelt.status.condition("Ready").message


def test_an_invalid_edit_does_not_stop_a_training_run() -> None:
    decision = reconcile(
        observed(run(status(), trainer__microbatches=64, generation=2), jobsets=[jobset()], pods=[pod()]), NOW
    )
    assert (decision.delete, decision.status.phase) == ((), "Running")
    assert condition(decision, "Stalled") == ("True", "InvalidSpec")


def test_a_trainer_that_does_not_answer_is_not_said_to_train_now() -> None:
    silent = observed(
        run(status()), jobsets=[jobset(in_place=False)], pods=[pod()], report_problem="no answer within 2 s"
    )
    assert reconcile(silent, NOW).status.condition("Ready").message == (
        "attempt 1, restart 0 is training by its last report; process 0 does not report now (no answer within 2 s)"
    )


def test_an_end_under_an_invalid_document_counts_when_the_document_is_valid() -> None:
    """Without the document nobody knows which step is the last one."""
    over = {"jobsets": [jobset(outcome="Completed")], "pods": [pod(**ended(0, 50))]}
    invalid = reconcile(observed(run(status(), trainer__microbatches=64, generation=2), **over), at(100)).status
    assert invalid.condition("Stalled").reason == "InvalidSpec"
    assert invalid.history[-1].cause is None
    valid = reconcile(observed(run(invalid.document(), generation=3), **over), at(200)).status
    assert valid.history[-1].cause == "endedEarly"


def test_a_failed_save_is_reported_in_the_conditions_of_a_training_run() -> None:
    seen = {"jobsets": [jobset()], "pods": [pod(), pod(slice_index=1)]}
    decision = reconcile(
        observed(run(status()), **seen, report=report(checkpointError="the root has no space left")), NOW
    )
    assert decision.status.phase == "Running"
    for kind in ("Ready", "Running"):
        assert condition(decision, kind) == ("True", "CheckpointsFailing")
        assert (
            "is training, but the last save failed: the root has no space left"
            in decision.status.condition(kind).message
        )
    better = reconcile(observed(run(decision.status.document()), **seen, report=report(step=20)), at(70))
    assert condition(better, "Ready") == ("True", "Running")
    other_group = reconcile(
        observed(run(status()), **seen, report=report(restart=1, checkpointError="of another cluster")), NOW
    )
    assert condition(other_group, "Ready") == ("True", "Running")


@pytest.mark.parametrize(
    ("seen", "message"),
    [
        (
            {"lateSave": {"step": 20, "since": "2026-03-01T12:00:30Z", "waits": False}},
            "is training beside the save of step 20, which began at 2026-03-01T12:00:30Z and takes longer than usual",
        ),
        (
            {
                "lateSave": {
                    "step": 20,
                    "since": "2026-03-01T12:00:30Z",
                    "silentSince": "2026-03-01T12:00:31Z",
                    "waits": True,
                }
            },
            "waits for the save of step 20, which began at 2026-03-01T12:00:30Z and takes longer than usual; its store "
            "has completed no request since 2026-03-01T12:00:31Z",
        ),
        (
            {"waiting": {"what": "dataSource", "until": "2026-03-01T12:10:00Z"}},
            "is training, and retries the store of its data, which denies access or does not answer until "
            "2026-03-01T12:10:00Z",
        ),
    ],
)
def test_what_a_training_run_waits_for_is_in_its_conditions(seen: dict[str, object], message: str) -> None:
    pods = [pod(), pod(slice_index=1)]
    decision = reconcile(observed(run(status()), jobsets=[jobset()], pods=pods, report=report(**seen)), NOW)
    assert condition(decision, "Running") == ("True", "Running")
    assert decision.status.condition("Running").message == f"attempt 1, restart 0 {message}"


def test_a_volume_without_a_claim_and_slices_of_one_host_are_reported() -> None:
    on_disk = reconcile(observed(run(checkpoint={"root": "file:///data/demo"})), NOW)
    assert "spec.checkpoint.volumeClaim" in on_disk.status.condition("Stalled").message
    covered = reconcile(observed(run(data__volume={"claim": "text", "mountPath": "/tmp"})), NOW)
    assert "spec.data.volume.mountPath: /tmp overlaps /tmp" in covered.status.condition("Stalled").message
    alone = reconcile(observed(run(accelerator={"type": "v5e", "topology": "2x2", "slices": 2})), NOW)
    assert "spec.accelerator.slices" in alone.status.condition("Stalled").message
    queued = reconcile(observed(run(accelerator={"type": "h100", "topology": "1x8", "provisioning": "queued"})), NOW)
    assert "set spec.scheduling.queue.name" in queued.status.condition("Stalled").message


@pytest.mark.parametrize(
    ("waiting", "reason"),
    [
        ({"reason": "ImagePullBackOff", "message": "no such image"}, "ImagePullFailed"),
        ({"reason": "ErrImageNeverPull", "message": "not present"}, "ImagePullFailed"),
        ({"reason": "CreateContainerConfigError", "message": "secret not found"}, "ContainerConfigInvalid"),
    ],
)
def test_a_pod_that_cannot_start_is_reported_and_waited_for(waiting: dict[str, str], reason: str) -> None:
    stuck = pod(phase="Pending", containerStatuses=[{"name": "trainer", "state": {"waiting": waiting}}])
    fresh = status(history=[{"attempt": 1, "restart": 0, "startedAt": rfc(0)}])
    decision = reconcile(observed(run(fresh), jobsets=[jobset()], pods=[stuck]), NOW)
    assert condition(decision, "Ready") == ("False", reason)
    assert condition(decision, "Stalled")[0] == "False"
    assert waiting["message"] in decision.status.condition("Ready").message
    assert decision.delete == ()


def test_an_unschedulable_pod_is_reported() -> None:
    waiting = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/1 nodes are available",
    }
    fresh = status(history=[{"attempt": 1, "restart": 0, "startedAt": rfc(0)}])
    stuck = pod(phase="Pending", conditions=[waiting], containerStatuses=[])
    assert condition(reconcile(observed(run(fresh), jobsets=[jobset()], pods=[stuck]), NOW), "Ready") == (
        "False",
        "Unschedulable",
    )


def test_a_run_that_is_being_deleted_is_left_to_the_garbage_collector() -> None:
    document = run(status())
    document["metadata"]["deletionTimestamp"] = rfc(10)
    assert reconcile(observed(document, jobsets=[jobset()]), NOW).status is None


def test_nothing_is_written_when_nothing_has_changed() -> None:
    seen = {"jobsets": [jobset()], "pods": [pod()], "report": report(step=10)}
    first = reconcile(observed(run(status()), **seen), NOW)
    assert reconcile(observed(run(first.status.document()), **seen, progress_written_at=NOW), at(61)).status is None
    seen["report"] = report(step=11)
    moved = observed(run(first.status.document()), **seen, progress_written_at=NOW)
    assert reconcile(moved, at(61)).status is None, "progress alone must wait for its interval"
    assert reconcile(moved, at(65)).status.progress.step == 11
