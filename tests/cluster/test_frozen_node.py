"""A node whose kubelet hangs for 15 minutes: its processes go on, but none is started, stopped or reported."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from halcyon_devcluster.waiting import until
from tests.cluster.conftest import DevCluster
from tests.cluster.scripted import Operator, Runs, causes, counts, document, installed, made_namespace

pytestmark = [pytest.mark.cluster, pytest.mark.alone, pytest.mark.long, pytest.mark.timeout(2400)]

FROZEN = timedelta(minutes=15)
STAYS = [
    {"key": f"node.kubernetes.io/{fault}", "operator": "Exists", "effect": "NoExecute"}
    for fault in ("unreachable", "not-ready")
]
"""Tolerations that keep the operator's pod on the only node."""


@pytest.fixture
def frozen_node(devcluster: DevCluster, python_image: str) -> Iterator[tuple[Runs, Operator]]:
    with (
        made_namespace(devcluster, "frozen") as namespace,
        installed(
            devcluster, python_image, namespace, tolerations=STAYS, stuckPods={"afterSeconds": 60, "forceDelete": False}
        ) as operator,
    ):
        yield Runs(devcluster, namespace), operator


def test_runs_on_a_frozen_node_are_reported_and_continue_afterwards(frozen_node: tuple[Runs, Operator]) -> None:
    runs, operator = frozen_node
    runs.apply_all(
        document("goes-on", "rate=5", "save=50", accelerator={"type": "cpu"}),
        document("of-two", "rate=5", "save=50"),
        document(
            "ends",
            "rate=5",
            "save=50",
            accelerator={"type": "cpu"},
            trainer={"steps": 1200, "batchSize": 8, "sequenceLength": 64},
        ),
    )
    before = {name: runs.training(name, step=60) for name in ("goes-on", "of-two", "ends")}
    with runs.devcluster.faults.kubelet_frozen():
        thaw_at = datetime.now(UTC) + FROZEN
        # The node's taint evicts the pods after five minutes, but they cannot end.
        for name in ("goes-on", "of-two"):
            runs.wait(
                name,
                "reporting the pod that does not end",
                lambda status: "and is still there" in ready(status)["message"],
                720,
            )
            sentence = ready(runs.status(name))["message"]
            assert "kubectl delete pod" in sentence
            assert "on node " in sentence
        until(
            lambda: datetime.now(UTC) >= thaw_at,
            timeout_seconds=FROZEN.total_seconds(),
            interval_seconds=5,
            failure=lambda: "",
        )
        frozen = {name: runs.status(name) for name in before}
        assert {
            name: status["phase"] for name, status in frozen.items() if status["phase"] in ("Failed", "Stalled")
        } == {}
    for name in ("goes-on", "of-two"):
        after = runs.wait(
            name,
            "training again",
            lambda status, name=name: status["phase"] == "Running" and group(status) != group(before[name]),
            180,
        )
        assert after["attempt"] == 1, "JobSet must restart it, as after any eviction"
        assert set(counts(after)) <= {"preempted"}, (
            f"a node that hangs must not count as a failure of the run: {causes(after)}"
        )
        assert len(causes(after)) <= 3, causes(after)
    ended = runs.wait(
        "ends", "over", lambda status: status["phase"] == "Succeeded", 600
    )  # the script has no store, and may have to start again from step 0
    assert ended["progress"]["step"] == 1200
    assert "Traceback" not in operator.log()


def ready(status: dict[str, Any]) -> dict[str, Any]:
    """The Ready condition."""
    return next(condition for condition in status["conditions"] if condition["type"] == "Ready")


def group(status: dict[str, Any]) -> tuple[int, int]:
    last = status["history"][-1]
    return last["attempt"], last["restart"]
