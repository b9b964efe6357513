"""Foreign changes to a run's objects, its namespace and its status: each is reported in one clear sentence, and nothing
is done twice.
"""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import pytest

from halcyon_api import names
from halcyon_api.hardware import suggestion
from halcyon_operator.decide.reconcile import reconcile
from halcyon_operator.kube.client import ApiError
from halcyon_operator.model.views import HeadUnreachable
from tests.document_changes import changed
from tests.operator.builders import at, head, jobset, observed, run
from tests.operator.hostile import LONG, NEXT_VERSION, STATUS
from tests.operator.simulation import JOBSETS, KEY, RUN, SimulatedCluster
from tests.suite.limits import limit

CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"


def ready(cluster: SimulatedCluster) -> tuple[str, str]:
    """Reason and message of the condition Ready."""
    condition = next(one for one in cluster.status["conditions"] if one["type"] == "Ready")
    return condition["reason"], condition["message"]


def training(step: int = 50) -> SimulatedCluster:
    """A run whose first attempt trains and has saved."""
    cluster = SimulatedCluster(run())
    cluster.settle()
    cluster.train(step)
    cluster.head = head(step)
    cluster.settle()
    assert (cluster.status["phase"], cluster.status["attempt"]) == ("Running", 1)
    return cluster


def goes_on(cluster: SimulatedCluster, attempt: int) -> None:
    """Check that this attempt trains from the last checkpoint, and that it is the only one."""
    cluster.settle()
    assert cluster.status["attempt"] == attempt
    saved = cluster.status.get("checkpoint", {}).get("step", 0)
    cluster.train(saved + 1, resumed=saved)
    cluster.settle()
    assert cluster.status["phase"] == "Running"
    assert [place for place in cluster.api.objects if place.startswith(JOBSETS)] == [f"{JOBSETS}/demo-{attempt}"]
    made = [name for kind, name in cluster.api.created if kind == "JobSet"]
    assert len(made) == len(set(made)), "no attempt may be made twice"


def test_a_config_map_cannot_be_edited_and_the_next_attempt_has_its_own() -> None:
    cluster = training()
    assert cluster.api.objects[f"{CONFIG_MAPS}/demo-1"]["immutable"] is True, "the API server must reject an edit"
    cluster.api.objects[f"{CONFIG_MAPS}/demo-1"] = {
        "kind": "ConfigMap",
        "metadata": {"name": "demo-1", "uid": "by hand"},
        "data": {"run.yaml": "x"},
    }
    cluster.delete_jobset()
    goes_on(cluster, 2)
    assert cluster.api.objects[f"{CONFIG_MAPS}/demo-1"]["metadata"]["uid"] == "by hand", (
        "a foreign object must not be changed"
    )
    assert "kind: TrainingRun" in cluster.api.objects[f"{CONFIG_MAPS}/demo-2"]["data"][names.RUN_DOCUMENT_KEY]


def test_a_deleted_jobset_is_followed_by_the_next_attempt() -> None:
    cluster = training()
    cluster.delete_jobset()
    goes_on(cluster, 2)
    assert cluster.status["restarts"]["jobSetDeleted"] == 1


def test_a_jobset_suspended_by_hand_stays_suspended_and_a_new_attempt_follows_its_resumption() -> None:
    cluster = training()
    cluster.jobset["spec"]["suspend"] = True
    cluster.settle()
    sentence = "JobSet demo-1 is suspended by a user; the run goes on when the JobSet is resumed"
    assert (cluster.status["attempt"], cluster.status["phase"], ready(cluster)) == (
        1,
        "Restarting",
        ("JobSetSuspended", sentence),
    )
    cluster.edit(image="other:2")
    cluster.annotate("now", names.ANNOTATION_RESTART)
    cluster._start_operator()
    cluster.settle()
    assert (cluster.status["attempt"], cluster.jobset["spec"]["suspend"], ready(cluster)) == (
        1,
        True,
        ("JobSetSuspended", sentence),
    )
    cluster.jobset["spec"]["suspend"] = False
    goes_on(cluster, 2)
    first = cluster.status["history"][0]
    assert (first["cause"], cluster.status["restarts"]["preempted"]) == ("preempted", 1)
    assert first["message"] == "JobSet demo-1 was suspended by a user"


def test_a_run_with_a_jobset_suspended_by_hand_can_still_be_suspended_and_resumed() -> None:
    cluster = training()
    cluster.jobset["spec"]["suspend"] = True
    cluster.settle()
    cluster.edit(suspend=True)
    cluster.settle()
    assert (cluster.status["phase"], cluster.jobset) == ("Suspended", None)
    cluster.edit(suspend=False)
    goes_on(cluster, 2)


def test_a_jobset_that_a_queue_holds_is_waited_for() -> None:
    held = jobset() | {"spec": {"suspend": True}}
    started = {
        "attempt": 1,
        "jobSetName": "demo-1",
        "jobSetUid": "jobset-1",
        "history": [STATUS["history"][0] | {"restart": 0}],
    }
    del started["history"][0]["firstStepAt"]
    decision = reconcile(observed(run(started), jobsets=[held]), at(60))
    assert (decision.delete, decision.create) == ((), ())
    assert decision.status is not None
    condition = decision.status.condition("Ready")
    assert condition is not None
    assert condition.reason == "JobSetSuspended"
    assert condition.message.startswith(
        "JobSet demo-1 was suspended before it had pods, as Kueue does with manageJobsWithoutQueueName; name a queue"
    )


@pytest.mark.parametrize(
    "edit",
    [
        {"ownerReferences": []},
        {"ownerReferences": [{"kind": "TrainingRun", "uid": "another", "controller": True}]},
        {"labels": {names.LABEL_ATTEMPT: "1"}},
    ],
    ids=["without owner", "of another run", "without the run's label"],
)
def test_no_second_jobset_is_created_beside_one_with_edited_metadata(edit: dict[str, Any]) -> None:
    cluster = training()
    assert cluster.jobset is not None
    cluster.jobset["metadata"] |= edit
    cluster.settle()
    assert [name for kind, name in cluster.api.created if kind == "JobSet"] == ["demo-1"]
    if "labels" in edit:
        assert cluster.status["phase"] == "Running", "only its name and its owner decide"
    else:
        reason, message = ready(cluster)
        assert reason == "Restarting"
        assert "waiting for 2 pods of the last attempt to end, among them demo-1-s-0-0" in message


REFUSALS = {
    "the namespace is being deleted": (
        403,
        'jobsets "demo-1" is forbidden: unable to create new content in namespace default because it is ',
    ),
    "the quota is exceeded": (
        403,
        'jobsets "demo-1" is forbidden: exceeded quota: jobs, requested: count/jobsets.jobset.x-k8s.io=1, used: 5',
    ),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_rejection_by_the_api_server_is_reported_and_retried(refusal: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = SimulatedCluster(run())
    code, message = REFUSALS[refusal]
    inner = cluster.api.request

    async def refuse(method: str, path: str, resource: str, **arguments: Any) -> dict[str, Any]:
        if (method, resource) == ("POST", "jobsets"):
            raise ApiError(code, "Forbidden", message)
        return await inner(method, path, resource, **arguments)

    monkeypatch.setattr(cluster.api, "request", refuse)
    cluster.settle()
    assert ready(cluster) == ("CreateRefused", f"JobSet was refused: Forbidden: {message}".strip())
    monkeypatch.undo()
    goes_on(cluster, 1)


def test_a_run_deleted_with_its_namespace_is_forgotten() -> None:
    cluster = training()
    cluster.api.objects.clear()
    asyncio.run(cluster.reconcile_once())
    assert (cluster.api.objects, cluster.pod_endings.endings(KEY)) == ({}, ())


TAMPERED: dict[str, Any] = {
    "gone": {},
    "of no attempt": {"attempt": 0},
    "of an attempt to come": {"attempt": 7, "jobSetUid": "x"},
    "of the last attempt there is": {"attempt": names.MAX_ATTEMPT, "jobSetUid": "x"},
    "of another JobSet": {"jobSetUid": "another", "jobSetName": "coredns"},
    "of far more restarts": {"jobSetRestarts": 2**40, "jobSetRestartsCounted": 2**40},
    "of wrong types": {"attempt": "many", "history": 3, "conditions": [{}], "restarts": []},
    "of long texts": {"jobSetName": "x" * LONG, "phase": "y" * LONG, "jobSetUid": "z" * LONG},
}


@pytest.mark.parametrize("tampered", TAMPERED)
def test_a_status_that_was_tampered_with_costs_an_attempt_at_most(tampered: str) -> None:
    """The status decides only which attempt is which; everything else comes from the objects, the root and the spec."""
    cluster = training()
    document = cluster.api.objects[RUN]
    change = TAMPERED[tampered]
    document["status"] = {**document["status"], **change} if change else {}
    cluster.settle()
    mine = [place.rpartition("/")[2] for place in cluster.api.objects if place.startswith(JOBSETS)]
    made = [name for kind, name in cluster.api.created if kind == "JobSet"]
    assert len(made) == len(set(made)), "no attempt may be made twice"
    if tampered == "of the last attempt there is":
        assert (ready(cluster)[0], mine) == ("AttemptsExhausted", []), "it must be reported, and nothing done"
    else:
        assert len(mine) == 1
        assert mine == made[-1:]


def test_a_status_that_is_wiped_while_the_root_is_out_of_reach_uses_no_number_twice() -> None:
    """Otherwise the recorded ends of an attempt's pods would count for the next attempt."""
    cluster = training()
    cluster.head = HeadUnreachable("no route")
    cluster.api.objects[RUN]["status"] = {}
    goes_on(cluster, 2)


@pytest.mark.parametrize("change", NEXT_VERSION, ids=lambda change: next(iter(change)))
def test_fields_of_a_later_version_are_reported_and_stop_no_training(change: dict[str, Any]) -> None:
    """As after a downgrade: the CRD in the cluster is newer than this operator."""
    cluster = training()
    before = copy.deepcopy(cluster.api.objects[RUN])
    cluster.api.objects[RUN] = changed(before, {path: value for path, value in change.items() if path != "apiVersion"})
    cluster.settle()
    assert next(name for kind, name in cluster.api.created if kind == "JobSet") == "demo-1"
    if any(path.startswith("spec.") for path in change):
        _, message = ready(cluster)
        (path,) = change
        assert cluster.status["phase"] == "Running", "the run must train on"
        assert path.removeprefix("spec.").split(".")[0] in message
        stalled = next(one for one in cluster.status["conditions"] if one["type"] == "Stalled")
        assert (stalled["status"], stalled["reason"]) == ("True", "InvalidSpec")
    else:
        goes_on(cluster, cluster.status["attempt"])


@pytest.mark.parametrize(
    "path", ["image", "accelerator.type", "accelerator.topology", "checkpoint.root", "scheduling", "trainer.steps"]
)
def test_long_texts_are_rejected_in_a_short_sentence(path: str) -> None:
    decision = reconcile(observed(changed(run(), {f"spec.{path}": "x" * LONG})), at(0))
    assert (decision.create, decision.delete) == ((), ())
    assert decision.status is not None
    condition = decision.status.condition("Stalled")
    assert condition is not None
    assert condition.reason == "InvalidSpec"
    assert path.split(".")[0] in condition.message
    assert len(condition.message) <= 2048


def test_an_unknown_accelerator_is_reported_with_a_suggestion() -> None:
    assert suggestion("h10") == "h100"
    decision = reconcile(observed(run(accelerator={"type": "v5litepod-16", "topology": "4x4"})), at(0))
    assert decision.status is not None
    condition = decision.status.condition("Stalled")
    assert condition is not None
    assert "accelerator.type: unknown accelerator 'v5litepod-16'; did you mean v5e?" in condition.message


@pytest.mark.parametrize("runs", [120, pytest.param(500, marks=pytest.mark.variant)])
def test_hundreds_of_runs_at_once_get_one_jobset_each(runs: int) -> None:
    cluster = SimulatedCluster(run())
    base = RUN.rpartition("/")[0]
    keys = [KEY]
    for number in range(1, runs):
        document = run(name=f"demo{number}")
        document["metadata"]["uid"] = f"uid-of-{number}"
        cluster.api.objects[f"{base}/demo{number}"] = document
        keys.append(("default", f"demo{number}"))

    async def work() -> None:
        for key in keys:
            cluster.queue.add(key)
        workers = [asyncio.create_task(cluster.controller.work()) for _ in range(8)]
        while len([1 for kind, _ in cluster.api.created if kind == "JobSet"]) < runs:
            await asyncio.sleep(0)
            assert not any(worker.done() for worker in workers)
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)

    asyncio.run(asyncio.wait_for(work(), limit(120)))
    made = sorted(name for kind, name in cluster.api.created if kind == "JobSet")
    assert made == sorted(f"{name}-1" for _, name in keys)
    assert all(cluster.api.objects[f"{base}/{name}"]["status"]["attempt"] == 1 for _, name in keys)
