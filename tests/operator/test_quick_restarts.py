"""For a faster restart the operator deletes the pods of an evicted group, and makes the Job controller look at the Job
that failed. Where processes restart in place, see `test_in_place`.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, cast

import pytest

from halcyon_operator.decide.next.pods import MAX_PODS
from halcyon_operator.decide.reconcile import reconcile
from halcyon_operator.kube.client import ApiError, KubernetesApi
from halcyon_operator.kube.cluster import Cluster
from halcyon_operator.model.decision import Decision, JobSync
from tests.document_changes import changed
from tests.operator import builders
from tests.operator.builders import EXHAUSTED, at, deleted, disrupted, ended, observed, pod, run, termination
from tests.operator.test_attempts import deletions
from tests.operator.test_nodes import status

TRAINING: dict[str, Any] = status()
jobset = partial(builders.jobset, in_place=False)


def reconciled(
    *pods: dict[str, Any],
    jobset: dict[str, Any] = jobset(),  # noqa: B008
    status: dict[str, Any] = TRAINING,
    **spec: Any,
) -> Decision:
    return reconcile(observed(run(status, **spec), jobsets=[jobset], pods=list(pods)), at(60))


def deleted_pods(decision: Decision) -> list[tuple[str, str]]:
    return [(deletion.name, deletion.uid) for deletion in decision.delete if deletion.kind == "Pod"]


@pytest.mark.parametrize("notice", [{}, disrupted(50)], ids=["deleted", "evicted"])
def test_the_other_pods_of_the_process_group_are_deleted_too(notice: dict[str, Any]) -> None:
    gone = deleted(pod(slice_index=1, **notice), 50)
    assert deleted_pods(reconciled(pod(), gone)) == [("demo-1-s-0-0-abcde", "pod-1-0-0-0")]


def test_a_training_process_group_is_left_alone() -> None:
    assert deleted_pods(reconciled(pod(), pod(slice_index=1))) == []


@pytest.mark.parametrize(
    "other",
    [
        pod(**ended(42, 55)),
        deleted(pod(), 50),
        pod(phase="Pending", containerStatuses=[{"name": "trainer", "state": {"waiting": {"reason": "ErrImagePull"}}}]),
        pod(restart=1),
        pod(attempt=2),
        changed(pod(), {"metadata.ownerReferences": []}),
        changed(pod(), {"metadata.labels": pod()["metadata"]["labels"] | {"halcyon.dev/run-uid": "another"}}),
        changed(pod(), {"metadata.labels": pod()["metadata"]["labels"] | {"jobset.sigs.k8s.io/jobset-uid": "another"}}),
    ],
    ids=[
        "ended",
        "in deletion",
        "starting",
        "of the next process group",
        "of the next attempt",
        "without owner",
        "of another run",
        "of another JobSet",
    ],
)
def test_no_other_pod_is_deleted(other: dict[str, Any]) -> None:
    assert deleted_pods(reconciled(other, deleted(pod(slice_index=1), 50))) == []


def test_no_pod_is_deleted_before_the_process_group_has_trained() -> None:
    """A process that still starts would end at the signal, and its exit code would count as a failure."""
    (entry,) = TRAINING["history"]
    young = TRAINING | {"history": [{key: value for key, value in entry.items() if key != "firstStepAt"}]}
    assert deleted_pods(reconciled(pod(), deleted(pod(slice_index=1), 50), status=young)) == []


def test_pods_of_the_previous_process_group_cause_no_deletions() -> None:
    """The JobSet itself deletes the pods that it has replaced."""
    second = TRAINING | {
        "jobSetRestarts": 1,
        "history": [
            {
                "attempt": 1,
                "restart": 1,
                "startedAt": "2026-11-20T12:00:40Z",
                "fromStep": 0,
                "firstStepAt": "2026-11-20T12:00:50Z",
            },
            {**TRAINING["history"][0], "endedAt": "2026-11-20T12:00:30Z", "cause": "preempted"},
        ],
    }
    assert (
        deleted_pods(
            reconciled(pod(restart=1), deleted(pod(slice_index=1), 50), jobset=jobset(restarts=1), status=second)
        )
        == []
    )


def test_stopping_a_run_deletes_only_its_jobset() -> None:
    decision = reconciled(pod(), deleted(pod(slice_index=1), 50), suspend=True)
    assert deletions(decision) == [("JobSet", "demo-1")]


def failed(code: int, seconds: float = 50, message: str = "", **where: Any) -> dict[str, Any]:
    return pod(**ended(code, seconds, message), **where)


ECHO = termination("failed", 1, peerLost=1)
"""The report of a process that ended because of another one."""


@pytest.mark.parametrize(
    ("pods", "slice_index"),
    [
        ([failed(137)], 0),
        ([pod(), failed(42, slice_index=1)], 1),
        ([failed(1, 52), failed(137, 51, slice_index=1)], 1),
        ([failed(1, 51), failed(83, 52, slice_index=1)], 1),
        ([failed(1, 51, ECHO), failed(137, 52, slice_index=1)], 1),
        ([failed(1, 51), failed(1, 51, slice_index=1)], 0),
        ([pod(), deleted(failed(42, slice_index=1), 40)], 1),
    ],
    ids=[
        "the only one",
        "beside a running pod",
        "the first",
        "reserved exit code",
        "not an echo",
        "in the same second",
        "in deletion",
    ],
)
def test_the_job_controller_looks_at_once_at_the_job_whose_pod_has_failed_first(
    pods: list[dict[str, Any]], slice_index: int
) -> None:
    assert reconciled(*pods).sync == (JobSync(f"demo-1-s-{slice_index}", f"job-{slice_index}"),)


@pytest.mark.parametrize(
    ("other", "jobset"),
    [
        (pod(), jobset()),
        (failed(0), jobset()),
        (failed(1, 50, ECHO), jobset()),
        (failed(1, restart=1), jobset()),
        (failed(1), jobset(restarts=1)),
        (failed(1, attempt=2), jobset()),
        (changed(failed(1), {"metadata.ownerReferences": []}), jobset()),
        (failed(1), jobset(outcome="Failed", reason=EXHAUSTED)),
        (failed(1), jobset(deleting=True)),
    ],
    ids=[
        "it trains",
        "it succeeded",
        "it ended because of another process",
        "of the next process group",
        "of the previous process group",
        "of the next attempt",
        "without owner",
        "the JobSet has failed",
        "the JobSet is being deleted",
    ],
)
def test_no_other_job_is_changed(other: dict[str, Any], jobset: dict[str, Any]) -> None:
    assert reconciled(other, jobset=jobset).sync == ()


@pytest.mark.parametrize("code", [403, 404, 409, 422])
def test_a_change_of_a_job_that_is_refused_has_no_effect(code: int) -> None:
    """Rights of an older release, a Job that was replaced, or an admission policy."""
    api = Refusing(code)
    asyncio.run(Cluster(cast("KubernetesApi", api)).sync_job("team", JobSync("demo-1-s-0", "job-0")))
    assert api.requests == [("PATCH", "/apis/batch/v1/namespaces/team/jobs/demo-1-s-0", "job-0")]


def test_a_change_of_a_job_that_gets_no_answer_is_tried_again() -> None:
    with pytest.raises(ApiError):
        asyncio.run(Cluster(cast("KubernetesApi", Refusing(0))).sync_job("team", JobSync("demo-1-s-0", "job-0")))


class Refusing:
    """An API server that refuses every request."""

    def __init__(self, code: int) -> None:
        self.code, self.requests = code, list[tuple[str, str, str]]()

    async def request(self, method: str, path: str, *_: str, body: dict[str, Any], **__: Any) -> None:
        self.requests.append((method, path, body["metadata"]["uid"]))
        raise ApiError(self.code, "Refused", "")


@pytest.mark.parametrize(
    "restart", [0, 1], ids=["of the present process group", "of the group that the JobSet has replaced"]
)
def test_a_deleted_pod_that_has_failed_is_removed_without_its_grace_period(restart: int) -> None:
    second = TRAINING | {
        "jobSetRestarts": 1,
        "history": [
            {
                "attempt": 1,
                "restart": 1,
                "startedAt": "2026-11-20T12:00:40Z",
                "fromStep": 0,
                "firstStepAt": "2026-11-20T12:00:50Z",
            },
            {**TRAINING["history"][0], "endedAt": "2026-11-20T12:00:30Z", "cause": "preempted"},
        ],
    }
    gone = deleted(pod(**ended(42, 55)), 50)
    decision = reconciled(gone, jobset=jobset(restarts=restart), status=second if restart else TRAINING)
    assert [(deletion.uid, deletion.force) for deletion in decision.delete] == [("pod-1-0-0-0", True)]


@pytest.mark.parametrize(
    "other",
    [
        pod(**ended(42, 55)),
        deleted(pod(**ended(0, 55)), 50),
        deleted(pod(**ended(42, 55)), 50, grace=0),
        deleted(pod(), 50),
    ],
    ids=["not deleted", "succeeded", "already removed", "still runs"],
)
def test_no_other_pod_is_removed_without_its_grace_period(other: dict[str, Any]) -> None:
    assert not any(deletion.force for deletion in reconciled(other).delete)


def test_no_pod_of_a_large_process_group_is_deleted() -> None:
    cluster = [pod(host=host) for host in range(MAX_PODS)]
    assert deleted_pods(reconciled(*cluster, deleted(pod(slice_index=1), 50))) == []
    assert deleted_pods(reconciled(*cluster, deleted(pod(slice_index=1, **ended(42, 55)), 50))) == []
    assert len(deleted_pods(reconciled(*cluster[1:], deleted(pod(slice_index=1), 50)))) == MAX_PODS - 1
