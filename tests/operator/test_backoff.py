"""Ends that are free of charge never stop a run; without progress, each next attempt waits longer."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from halcyon_api import names
from halcyon_api.status.run_status import TrainingRunStatus
from halcyon_operator.decide.next.backoff import (
    FIRST_PAUSE_SECONDS,
    FREE_ENDS_IN_A_ROW,
    LONGEST_PAUSE_SECONDS,
    backoff_of,
)
from halcyon_operator.model.views import HeadUnreachable
from tests.operator.builders import EXHAUSTED, REFUSED, ended, head, run, termination
from tests.operator.simulation import PODS, SimulatedCluster


def refuse(cluster: SimulatedCluster, cause: str = "rootUnusable", code: int = 85) -> None:
    """The store denies access, so the trainer gives up."""
    exited = ended(
        code,
        cluster.now,
        termination(cause, code, attempt=cluster.status["attempt"], message="the store refuses access"),
    )
    for place in cluster.api.objects:
        if place.startswith(PODS):
            cluster.api.objects[place]["status"] = exited
    cluster.end_jobset("Failed", REFUSED)
    cluster.settle()


def ready(cluster: SimulatedCluster) -> dict[str, Any]:
    return next(one for one in cluster.status["conditions"] if one["type"] == "Ready")


def attempts(cluster: SimulatedCluster) -> int:
    return int(cluster.status["attempt"])


def wait_for_next_attempt(cluster: SimulatedCluster) -> float:
    """Wait until the next attempt is made, and check that it is not made before it is due. Returns the pause since the
    last end, in seconds."""
    before, hold = attempts(cluster), backoff_of(TrainingRunStatus.model_validate(cluster.status))
    assert hold is not None
    cluster.now += max(0.0, (hold.until - cluster.clock()).total_seconds() - 10)
    cluster.settle()
    assert attempts(cluster) == before
    cluster.now += 10
    cluster.settle()
    assert attempts(cluster) == before + 1
    ended = next(entry for entry in reversed(cluster.status["history"]) if entry.get("cause", "heldBack") != "heldBack")
    return (hold.until - datetime.fromisoformat(ended["endedAt"])).total_seconds()


@pytest.mark.parametrize(
    ("cause", "code", "reason", "readable"),
    [
        ("rootUnusable", 85, "CheckpointRootUnusable", True),
        ("rootUnusable", 85, "CheckpointRootUnusable", False),
        ("dataUnreachable", 87, "DataUnreachable", True),
    ],
    ids=["True", "False", "data"],
)
def test_a_store_that_refuses_is_retried_with_growing_pauses_and_without_end(
    cause: str, code: int, reason: str, readable: bool
) -> None:
    cluster = SimulatedCluster(run())
    if not readable:
        cluster.head = HeadUnreachable("the operator's own credentials do not open it")
    cluster.settle()
    pauses = []
    for _ in range(10):
        refuse(cluster, cause, code)
        assert (cluster.status["phase"], ready(cluster)["reason"]) == ("Restarting", reason)
        assert "the store refuses access" in ready(cluster)["message"]
        assert cluster.jobset is None, "it must hold no hardware while it waits"
        stalled = next(one for one in cluster.status["conditions"] if one["type"] == "Stalled")
        assert stalled["status"] == "False"
        pauses.append(wait_for_next_attempt(cluster))
    assert pauses == [min(FIRST_PAUSE_SECONDS * 2**number, LONGEST_PAUSE_SECONDS) for number in range(10)]
    assert cluster.status["restarts"][cause] == 10
    finish(cluster)


def finish(cluster: SimulatedCluster) -> None:
    cluster.train(200)
    cluster.settle()
    cluster.head = head(300, epoch=(attempts(cluster), 0))
    cluster.end_jobset("Completed")
    cluster.settle()
    assert cluster.status["phase"] == "Succeeded"


@pytest.mark.parametrize("way", ["edit", "restart"])
def test_an_edit_or_a_restart_request_ends_the_pause(way: str) -> None:
    cluster = SimulatedCluster(run())
    cluster.settle()
    for _ in range(5):
        refuse(cluster)
        cluster.now += LONGEST_PAUSE_SECONDS
        cluster.settle()
    refuse(cluster)
    before = attempts(cluster)
    cluster.settle()
    assert attempts(cluster) == before
    if way == "edit":
        cluster.edit(image="fixed:2")
    else:
        cluster.annotate("fixed", names.ANNOTATION_RESTART)
    cluster.settle()
    assert attempts(cluster) == before + 1
    finish(cluster)


def test_a_checkpoint_makes_the_pauses_short_again() -> None:
    cluster = SimulatedCluster(run(recovery__inPlace=False))
    cluster.settle()
    for _ in range(5):
        refuse(cluster)
        cluster.now += LONGEST_PAUSE_SECONDS
        cluster.settle()
    cluster.train(50)
    cluster.settle()
    cluster.head = head(50, epoch=(attempts(cluster), 0))
    cluster.settle()
    cluster.evict()
    cluster.settle()
    refuse(cluster)
    assert "1 ends in a row" in ready(cluster)["message"]
    assert wait_for_next_attempt(cluster) == FIRST_PAUSE_SECONDS


def train_and_evict(cluster: SimulatedCluster) -> None:
    """Train a few steps, without a checkpoint, and evict."""
    cluster.train(5)
    cluster.settle()
    cluster.evict()
    cluster.settle()


def test_evictions_without_a_checkpoint_are_free_at_first_and_then_delayed() -> None:
    """In place, the Job's own pause grows."""
    cluster = SimulatedCluster(run(recovery__inPlace=False))
    cluster.settle()
    for number in range(1, FREE_ENDS_IN_A_ROW + 1):
        assert attempts(cluster) == 1, "it restarts without a new attempt"
        train_and_evict(cluster)
        assert cluster.status["restarts"]["preempted"] == number
    assert (cluster.status["phase"], ready(cluster)["reason"]) == ("Restarting", "RestartsWithoutCheckpoint")
    assert cluster.jobset is None
    pauses = []
    for _ in range(9):
        pauses.append(wait_for_next_attempt(cluster))
        assert cluster.jobset is not None, "each new attempt must start"
        train_and_evict(cluster)
    assert pauses == [min(FIRST_PAUSE_SECONDS * 2**number, LONGEST_PAUSE_SECONDS) for number in range(9)]
    assert cluster.status["phase"] == "Restarting"
    wait_for_next_attempt(cluster)
    finish(cluster)


def test_evictions_with_checkpoints_between_them_are_never_delayed() -> None:
    cluster = SimulatedCluster(run())
    cluster.settle()
    for number in range(1, 3 * FREE_ENDS_IN_A_ROW):
        cluster.train(10 * number, resumed=10 * (number - 1))
        cluster.settle()
        cluster.head = head(10 * number, epoch=(1, number - 1))
        cluster.settle()
        cluster.evict()
        cluster.settle()
    assert attempts(cluster) == 1
    finish(cluster)


def reject(cluster: SimulatedCluster, *, last: bool = False) -> None:
    """The node rejects a pod of the present process group; the JobSet counts a failure, and restarts or gives up."""
    verdict = {
        "phase": "Failed",
        "reason": "OutOfmemory",
        "message": "Pod was rejected: Node didn't have enough resource",
    }
    for place in cluster.api.objects:
        if place.startswith(PODS):
            status = verdict | {"startTime": cluster.clock().strftime("%Y-%m-%dT%H:%M:%SZ"), "containerStatuses": []}
            cluster.api.objects[place]["status"] = status
    if last:
        cluster.end_jobset("Failed", EXHAUSTED)
    else:
        cluster.killed = True
    cluster.settle()


@pytest.mark.parametrize("last", [False, True], ids=["the JobSet restarts", "the JobSet has no restart left"])
def test_rejected_pods_cost_no_failure_and_the_pause_grows(last: bool) -> None:
    """From the second end in a row on: the first one may be over at once."""
    cluster = SimulatedCluster(run(recovery__maxRestarts=0, recovery__badNodes={"blames": 0}))
    cluster.settle()
    reject(cluster, last=last)
    assert (ready(cluster)["reason"], cluster.status["history"][-1].get("cause")) == ("Restarting", None)
    pauses = []
    for _ in range(4):
        reject(cluster, last=last)
        assert ready(cluster)["reason"] == "PodsRejected"
        assert "node node-a did not start pod demo-" in ready(cluster)["message"]
        pauses.append(wait_for_next_attempt(cluster))
    assert pauses == [FIRST_PAUSE_SECONDS * 2**number for number in range(4)]
    assert cluster.status["failuresWithoutCheckpoint"] == 0
    assert {entry.get("cause", "") for entry in cluster.status["history"]} <= {"rejected", "heldBack", ""}
    assert cluster.status["restarts"]["rejected"] > 0


def test_a_node_that_rejects_pods_again_is_used_only_where_no_other_has_room() -> None:
    cluster = SimulatedCluster(run())
    cluster.settle()
    reject(cluster)
    assert not cluster.status.get("placement", {}).get("avoided")
    reject(cluster)
    assert [node["node"] for node in cluster.status["placement"]["avoided"]] == ["node-a"]
    assert "avoiding node node-a, which rejected pods 2 times" in str(cluster.status["history"])
    assert cluster.jobset is not None
    template = cluster.jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    rules = template["affinity"]["nodeAffinity"]
    assert [*rules] == ["preferredDuringSchedulingIgnoredDuringExecution"], "if all nodes reject, none is excluded"
    (rule,) = rules["preferredDuringSchedulingIgnoredDuringExecution"]
    (term,) = rule["preference"]["matchExpressions"]
    assert (term["operator"], term["values"]) == ("NotIn", ["node-a"])
    reject(cluster)
    reject(cluster)
    assert ready(cluster)["reason"] == "PodsRejected", "there is no better node, so the run waits"
    wait_for_next_attempt(cluster)
