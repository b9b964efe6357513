"""An edit costs no step: live fields apply at once; for all others a new attempt starts, after a checkpoint made for
it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from halcyon_api.post_requests import request_id
from halcyon_operator.decide.reconcile import reconcile
from halcyon_operator.decide.record.edits import MAX_ACCEPT_SECONDS, MAX_SAVE_SECONDS
from halcyon_operator.decide.record.spec_hash import RETIRED
from tests.families import llama
from tests.operator.builders import UID, at, ended, head, jobset, observed, pod, rfc, run
from tests.operator.simulation import SimulatedCluster
from tests.operator.test_attempts import condition, deletions, status
from tests.operator.training import messages, reconcile_training

IN_FORCE = {
    "accelerator.slices": "2",
    "accelerator.type": '"cpu"',
    "recovery.maxRestarts": "3",
    "trainer.steps": "300",
}
CONSTANT = {"schedule": {"constant": {}}, "adamw": {}}
WSD = {"schedule": {"wsd": {"decaySteps": 100}}, "adamw": {}}


def known(**more: Any) -> dict[str, Any]:
    return status(**{"inForce": IN_FORCE, **more})


reconciled = partial(reconcile_training, request_id("edit", f"{UID}/edit {rfc(60)}"))


def after(decision: Any, **spec: Any) -> dict[str, Any]:
    return run(decision.status.document(), generation=2, **spec)


def test_the_values_in_force_are_recorded_with_the_attempt() -> None:
    minted = reconcile(observed(run()), at(60)).status
    assert minted.in_force == IN_FORCE
    upgraded = reconciled(run(status()))
    assert upgraded.status.in_force == IN_FORCE, "an attempt without a record"
    assert messages(upgraded, "EditApplied") == []


def test_a_live_field_is_in_force_at_once_and_nothing_stops() -> None:
    decision = reconciled(run(known(), generation=2, recovery__maxRestarts=7, telemetry__statusIntervalSeconds=9))
    assert (decision.delete, decision.asks, decision.status.edit) == ((), (), None)
    assert decision.status.in_force == IN_FORCE | {"recovery.maxRestarts": "7", "telemetry.statusIntervalSeconds": "9"}
    assert messages(decision, "EditApplied") == [
        "In force at once: recovery.maxRestarts is 7 but was 3, telemetry.statusIntervalSeconds is 9 but was 5"
    ]
    assert (
        messages(
            reconciled(after(decision, recovery__maxRestarts=7, telemetry__statusIntervalSeconds=9)), "EditApplied"
        )
        == []
    )


def test_an_edit_that_waits_while_saves_fail_is_still_in_progress() -> None:
    document = run(known(), generation=2, trainer__logEverySteps=5)
    decision = reconciled(document, reported={"checkpointError": "the root has no space left"})
    assert condition(decision, "Running") == ("True", "CheckpointsFailing")
    assert condition(decision, "Reconciling") == ("True", "EditPending")
    message = decision.status.condition("Running").message
    assert (
        "the last save failed: the root has no space left; an edit waits for a checkpoint: trainer.logEverySteps"
        in message
    )


def test_any_other_field_waits_for_a_checkpoint_of_all_trained_steps() -> None:
    edit = {"trainer__logEverySteps": 5, "image": "other:2"}
    seen = reconciled(run(known(), generation=2, **edit))
    assert messages(seen, "EditPending") == [
        "image is other:2 but was not set, trainer.logEverySteps is 5 but was 1: asking for a checkpoint, from which a "
        "new attempt goes on"
    ]
    assert condition(seen, "Running") == condition(seen, "Reconciling") == ("True", "EditPending")
    assert "an edit waits for a checkpoint: image, trainer.logEverySteps" in seen.status.condition("Ready").message
    (ask,) = seen.asks
    assert (ask.request.attempt, seen.delete, seen.requeue_after) == (1, (), 2)
    assert seen.status.attempt_spec_hash == known()["attemptSpecHash"], "the hash must stay that of the current attempt"

    taken = reconciled(after(seen, **edit), taken=21, step=21)
    assert (taken.asks, taken.delete, taken.status.edit.save.asked_step) == ((), (), 21)
    late = reconciled(after(taken, **edit), taken=21, step=25, saved=20)
    assert ((late.status or taken.status).edit.save.step, late.delete) == (None, ()), (
        "a checkpoint from before the request must not count"
    )
    saved = reconciled(after(taken, **edit), taken=21, step=25, saved=22)
    assert deletions(saved) == [("JobSet", "demo-1")]
    assert saved.status.history[-1].message == "the spec was edited: image, trainer.logEverySteps; saved at step 22"
    assert saved.status.attempt_spec_hash == RETIRED

    minted = reconcile(observed(after(saved, **edit), head=head(22)), at(70))
    assert (minted.status.attempt, minted.status.edit) == (2, None)
    assert minted.status.in_force == IN_FORCE | {"image": '"other:2"', "trainer.logEverySteps": "5"}
    assert messages(minted, "EditApplied") == [
        "In force with attempt 2, from step 22 on: image is other:2 but was not set, trainer.logEverySteps is 5 but "
        "was 1"
    ]
    assert minted.status.restarts.spec_changed == 1


def test_an_edit_that_is_withdrawn_stops_no_training() -> None:
    seen = reconciled(run(known(), generation=2, image="other:2"))
    back = reconciled(after(seen), taken=21, saved=22)
    assert (back.delete, back.status.edit) == ((), None)
    assert messages(back, "EditWithdrawn") == ["The edit was withdrawn before it took effect; attempt 1 goes on"]


def test_writing_the_suggested_mesh_into_the_document_stops_no_training() -> None:
    large = {
        "model": llama(80, 8192, 28_672, 64, numKeyValueHeads=8),
        "accelerator": {"type": "v5e", "topology": "8x16"},
        "trainer__batchSize": 64,
    }
    made = reconcile(observed(run(**large)), at(50)).status
    mesh = made.topology.mesh
    assert mesh.tensor > 1, "the mesh must be suggested, so that writing it out is an edit"
    document = made.document() | {"jobSetUid": "jobset-1", "history": known()["history"]}
    decision = reconciled(
        run(document, generation=2, **large, mesh={"ici": {"fsdp": mesh.fsdp, "tensor": mesh.tensor}})
    )
    assert (decision.delete, decision.status.edit) == ((), None)
    assert decision.status.in_force["mesh.ici.tensor"] == str(mesh.tensor)


@pytest.mark.parametrize(
    "more",
    [
        {"pods": [pod(**ended(1, 59, "boom"))]},
        {"jobsets": [jobset(restarts=1)], "report": None, "pods": []},
        {"jobsets": [jobset(outcome="Failed")]},
    ],
    ids=["ended", "restarting", "failed"],
)
def test_an_edit_takes_effect_without_a_checkpoint_while_no_process_trains(more: dict[str, Any]) -> None:
    history = [
        {
            "attempt": 1,
            "restart": 0,
            "startedAt": rfc(0),
            "endedAt": rfc(50),
            "cause": "preempted",
            "message": "evicted",
        }
    ]
    decision = reconciled(run(known(history=history), generation=2, image="other:2"), **more)
    assert deletions(decision) == [("JobSet", "demo-1")]


def test_an_edit_takes_effect_without_a_checkpoint_before_the_first_step() -> None:
    history = [{"attempt": 1, "restart": 0, "startedAt": rfc(0)}]
    decision = reconciled(run(known(history=history), generation=2, image="other:2"), stage="compiling")
    assert deletions(decision) == [("JobSet", "demo-1")]
    assert messages(decision, "EditPending") == ["image is other:2 but was not set: a new attempt is made at once"]


@pytest.mark.parametrize("port", ['"x"', "true", "99999999", "-1", "1e400", "[" * 5000])
def test_a_damaged_record_stops_no_training(port: str) -> None:
    spoiled = known(inForce=IN_FORCE | {"telemetry.port": port, "no.field": "{", "trainer.steps": "null"})
    decision = reconciled(run(spoiled, generation=2))
    assert decision.delete == ()


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
    edit = {"checkpoint__credentialsSecret": {"name": "fixed"}}
    seen = reconciled(run(known(), generation=2, **edit))
    document = after(seen, **edit)
    assert reconciled(document, now=60 + limit - 1, reported=reported, taken=taken).delete == ()
    assert deletions(reconciled(document, now=60 + limit, reported=reported, taken=taken)) == [("JobSet", "demo-1")]


def test_the_current_trainer_gets_the_request_at_its_own_port() -> None:
    (ask,) = reconciled(run(known(), generation=2, telemetry__port=9500)).asks
    assert ask.port == 9400


def test_more_steps_are_an_ordinary_edit_if_the_steps_done_stay_the_same() -> None:
    hashed = reconciled(run(status(attemptSpecHash=None), optimizer=CONSTANT)).status.document()
    decision = reconciled(run(hashed, generation=2, optimizer=CONSTANT, trainer__steps=500))
    assert messages(decision, "EditPending")[0].startswith("trainer.steps is 500 but was 300")
    assert decision.status.edit.fields == ["trainer.steps"]


@pytest.mark.parametrize(
    ("spec", "step", "sentence"),
    [
        (
            {"trainer__steps": 500},
            20,
            "the 20 steps that are done would have had other learning rates with 500 steps than with 300",
        ),
        ({"trainer__steps": 500, "optimizer": WSD}, 201, "the decay of wsd began after step 200; set it back to 300"),
        ({"trainer__steps": 15, "optimizer": CONSTANT}, 20, "20 steps are done, so 15 are too few; give at least 20"),
        (
            {"trainer__steps": 500, "optimizer": CONSTANT, "data__mixture": {"simulateTokens": 10_000}},
            20,
            "must not change with data.mixture.simulateTokens",
        ),
    ],
)
def test_steps_that_would_change_steps_done_are_rejected_and_training_continues(
    spec: dict[str, Any], step: int, sentence: str
) -> None:
    decision = reconciled(run(known(), generation=2, **spec), step=step)
    assert (decision.delete, decision.asks) == ((), ())
    assert condition(decision, "Stalled") == ("True", "InvalidSpec")
    assert sentence in decision.status.condition("Stalled").message
    assert "attempt 1 goes on as it was" in decision.status.condition("Stalled").message


def test_a_finished_run_continues_when_it_gets_more_steps() -> None:
    cluster = SimulatedCluster(run(optimizer=CONSTANT))
    cluster.settle()
    cluster.train(200)
    cluster.settle()
    cluster.head = head(300)
    cluster.end_jobset("Completed")
    cluster.settle()
    assert cluster.status["phase"] == "Succeeded"
    cluster.edit(trainer={"steps": 400, "batchSize": 8, "sequenceLength": 32})
    cluster.settle()
    cluster.train(350, resumed=300)
    cluster.settle()
    assert (cluster.status["phase"], cluster.status["attempt"], cluster.status["restarts"]["total"]) == (
        "Running",
        2,
        1,
    )
    assert "finishedAt" not in cluster.status
    cluster.head = head(400, epoch=(2, 0))
    cluster.end_jobset("Completed")
    cluster.settle()
    assert (cluster.status["phase"], cluster.status["progress"]["step"], cluster.status["attempt"]) == (
        "Succeeded",
        400,
        2,
    )
    cluster.edit(trainer={"steps": 300, "batchSize": 8, "sequenceLength": 32})
    cluster.settle()
    assert (cluster.status["phase"], cluster.status["attempt"]) == ("Succeeded", 2), "a finished run must stay finished"


def test_more_steps_that_are_set_at_the_last_step_are_trained_too() -> None:
    document = reconciled(run(status(attemptSpecHash=None), optimizer=CONSTANT)).status.document()
    decision = reconciled(
        run(document, generation=2, optimizer=CONSTANT, trainer__steps=500),
        jobsets=[jobset(outcome="Completed")],
        saved=300,
        step=300,
    )
    assert deletions(decision) == [("JobSet", "demo-1")]
    assert (decision.status.phase, decision.status.progress.step) == ("Restarting", 300)
