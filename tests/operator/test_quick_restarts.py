"""A deleted pod whose containers have ended is removed without its grace period."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from halcyon_operator.decide.next.pods import MAX_PODS
from halcyon_operator.decide.reconcile import reconcile
from halcyon_operator.model.decision import Decision
from tests.operator import builders
from tests.operator.builders import at, deleted, disrupted, ended, observed, pod, run
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


def test_stopping_a_run_deletes_only_its_jobset() -> None:
    decision = reconciled(pod(), deleted(pod(slice_index=1), 50), suspend=True)
    assert deletions(decision) == [("JobSet", "demo-1")]


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


@pytest.mark.parametrize("notice", [{}, disrupted(50)], ids=["deleted", "evicted"])
def test_the_other_pods_are_left_alone(notice: dict[str, Any]) -> None:
    assert deleted_pods(reconciled(pod(), deleted(pod(slice_index=1, **notice), 50))) == []


def test_no_pod_of_a_large_process_group_is_removed() -> None:
    cluster, gone = [pod(host=host) for host in range(MAX_PODS)], deleted(pod(slice_index=1, **ended(42, 55)), 50)
    assert deleted_pods(reconciled(*cluster, gone)) == []
    assert len(deleted_pods(reconciled(*cluster[1:], gone))) == 1
