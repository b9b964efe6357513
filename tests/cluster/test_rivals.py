"""Elastic runs in a cluster with less room than all pods together request."""

from __future__ import annotations

import secrets
from typing import Any

import pytest

from halcyon_devcluster.waiting import until
from tests.cluster.scripted import INTERVAL_SECONDS, Runs, causes, document
from tests.cluster.workloads import free_memory, pod_spec

pytestmark = [pytest.mark.cluster, pytest.mark.alone, pytest.mark.variant, pytest.mark.timeout(1800)]

RIVALS = 12
RIVAL_SECONDS = 15
ELASTIC = {"minSlices": 1, "shrinkAfterSeconds": 5, "growAfterSeconds": 5}


def rivals(image: str, memory: str) -> dict[str, Any]:
    """A Job whose pods wait for a node, two at a time. Each keeps its place for a while."""
    spec = pod_spec(image, f"import time; time.sleep({RIVAL_SECONDS})", terminationGracePeriodSeconds=0)
    spec["containers"][0]["resources"] = {"requests": {"memory": memory}}
    job = {"parallelism": 2, "completions": RIVALS, "template": {"spec": spec}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "rivals"}, "spec": job}


def test_two_elastic_runs_beside_competing_pods_train_on_and_regain_all_their_slices(
    runs: Runs, python_image: str
) -> None:
    """There is room for four slices, as many as the two runs want."""
    each = f"{free_memory(runs.devcluster.kubectl) * 2 // 9}Mi"
    names = [f"elastic-{secrets.token_hex(3)}" for _ in range(2)]
    hardware = {"accelerator": {"type": "cpu", "slices": 2, "hostResources": {"memory": each}}}
    recovery = {"recovery": {"elastic": ELASTIC, "gracePeriodSeconds": 5}}
    runs.apply_all(*(document(name, "rate=10", "save=50", **hardware, **recovery) for name in names[:1]))
    runs.training(names[0], attempt=1)
    runs.devcluster.kubectl.apply([rivals(python_image, each)], "--namespace", runs.namespace)
    runs.apply_all(*(document(name, "rate=10", "save=50", **hardware, **recovery) for name in names[1:]))

    def whole(status: dict[str, Any]) -> bool:
        return status.get("topology", {}).get("slices") == 2 and status["phase"] == "Running"

    def over() -> bool:
        """All rivals have ended, or some have and the runs hold all the room: then no place becomes free for the
        others.
        """
        succeeded = int(runs.kubectl("get", "job", "rivals", "--output=jsonpath={.status.succeeded}") or 0)
        return succeeded == RIVALS or (succeeded >= 2 and all(whole(runs.status(name)) for name in names))

    until(over, timeout_seconds=600, interval_seconds=INTERVAL_SECONDS, failure=lambda: runs.kubectl("get", "pods"))
    for name in names:
        ended = runs.wait(name, "running with all slices", whole, 900)
        assert {cause for _, _, cause in causes(ended)} <= {"resized", "noRoom", ""}, (
            "no pod may be counted as a failure"
        )
        lost = sum(cause == "resized" for _, _, cause in causes(ended))
        assert lost <= 6, "it must not grow and shrink all the time"
        assert runs.condition(name, "Stalled")["status"] == "False"
    runs.delete(*names)
