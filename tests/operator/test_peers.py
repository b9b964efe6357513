"""When a pod of a process group is evicted, the operator ends the group's other pods at the same time, and no other pods."""

from __future__ import annotations

from typing import Any

import pytest

from halcyon_operator.decide.peers import MAX_PODS
from halcyon_operator.decide.reconcile import reconcile
from halcyon_operator.model.decision import Decision
from tests.document_changes import changed
from tests.operator.builders import at, deleted, disrupted, ended, jobset, observed, pod, run
from tests.operator.test_attempts import deletions
from tests.operator.test_nodes import status

TRAINING: dict[str, Any] = status()


def reconciled(*pods: dict[str, Any], jobset: dict[str, Any] = jobset(), status: dict[str, Any] = TRAINING, **spec: Any) -> Decision:  # noqa: B008
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
            {"attempt": 1, "restart": 1, "startedAt": "2026-11-20T12:00:40Z", "fromStep": 0, "firstStepAt": "2026-11-20T12:00:50Z"},
            {**TRAINING["history"][0], "endedAt": "2026-11-20T12:00:30Z", "cause": "preempted"},
        ],
    }
    assert deleted_pods(reconciled(pod(restart=1), deleted(pod(slice_index=1), 50), jobset=jobset(restarts=1), status=second)) == []


def test_stopping_a_run_deletes_only_its_jobset() -> None:
    decision = reconciled(pod(), deleted(pod(slice_index=1), 50), suspend=True)
    assert deletions(decision) == [("JobSet", "demo-1")]


def test_no_pod_of_a_large_process_group_is_deleted() -> None:
    cluster = [pod(host=host) for host in range(MAX_PODS)]
    assert deleted_pods(reconciled(*cluster, deleted(pod(slice_index=1), 50))) == []
    assert len(deleted_pods(reconciled(*cluster[1:], deleted(pod(slice_index=1), 50)))) == MAX_PODS - 1
