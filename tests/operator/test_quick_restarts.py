"""Where all pods are replaced, the JobSet does it: the operator deletes none of them."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

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
    "other",
    [
        pod(**ended(42, 55)),
        deleted(pod(**ended(0, 55)), 50),
        deleted(pod(**ended(42, 55)), 50),
        deleted(pod(**ended(42, 55)), 50, grace=0),
        deleted(pod(), 50),
    ],
    ids=["not deleted", "succeeded", "failed", "already removed", "still runs"],
)
def test_no_pod_is_removed_without_its_grace_period(other: dict[str, Any]) -> None:
    assert not any(deletion.force for deletion in reconciled(other).delete)


@pytest.mark.parametrize("notice", [{}, disrupted(50)], ids=["deleted", "evicted"])
def test_the_other_pods_are_left_alone(notice: dict[str, Any]) -> None:
    assert deleted_pods(reconciled(pod(), deleted(pod(slice_index=1, **notice), 50))) == []
