"""The operator is killed, or its request fails, at every single write of every scenario, and every scenario ends the
same.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from halcyon_api import names
from halcyon_operator.observe.pods import parse_pod
from tests.operator.builders import EXHAUSTED, REFUSED, ended, head, pod, run, termination
from tests.operator.builders import deleted as deleted_pod
from tests.operator.simulation import KEY, PODS, SimulatedCluster

FAULTS = ("crash after", "crash before", "lose the answer", "refuse", "conflict")


def finish(cluster: SimulatedCluster) -> None:
    cluster.train(200)
    cluster.settle()
    cluster.head = head(300, epoch=(cluster.status["attempt"], 0))
    cluster.end_jobset("Completed")
    cluster.settle()


def plain(cluster: SimulatedCluster) -> None:
    cluster.settle()
    finish(cluster)


def edited(cluster: SimulatedCluster) -> None:
    cluster.settle()
    cluster.train(50)
    cluster.settle()
    cluster.edit(image="other:2")
    cluster.settle()
    cluster.head = head(50, epoch=(1, 0))
    cluster.settle()
    finish(cluster)


def suspended(cluster: SimulatedCluster) -> None:
    cluster.settle()
    cluster.train(50)
    cluster.settle()
    cluster.suspend(50)
    cluster.edit(suspend=False)
    cluster.settle()
    finish(cluster)


def deleted(cluster: SimulatedCluster) -> None:
    cluster.settle()
    cluster.train(50)
    cluster.settle()
    cluster.delete_jobset()
    cluster.settle()
    finish(cluster)


def evicted(cluster: SimulatedCluster) -> None:
    """One pod is evicted, and replaced alone."""
    cluster.settle()
    cluster.train(50)
    cluster.settle()
    cluster.evict()
    cluster.settle()
    finish(cluster)


def crashed(cluster: SimulatedCluster) -> None:
    """The processes are killed, and start again in their pods."""
    cluster.settle()
    cluster.train(50)
    cluster.settle()
    cluster.crash()
    cluster.settle()
    finish(cluster)


def evicted_all(cluster: SimulatedCluster) -> None:
    """One pod is evicted, the other processes end with it, and the JobSet creates new pods."""
    cluster.edit(recovery={"inPlace": False})
    evicted(cluster)


def crashed_all(cluster: SimulatedCluster) -> None:
    """The processes are killed, and the JobSet creates new pods."""
    cluster.edit(recovery={"inPlace": False})
    crashed(cluster)


def exhausted_with_progress(cluster: SimulatedCluster) -> None:
    cluster.settle()
    cluster.train(50)
    cluster.head = head(40)
    cluster.settle()
    cluster.head = head(60)
    cluster.end_jobset("Failed", EXHAUSTED, restarts=3)
    cluster.settle()
    finish(cluster)


def stopped_and_fixed(cluster: SimulatedCluster) -> None:
    cluster.settle()
    exited = ended(83, cluster.now, termination("runChanged", 83, attempt=cluster.status["attempt"]))
    for place in cluster.api.objects:
        if place.startswith(PODS):
            cluster.api.objects[place]["status"] = exited
    cluster.end_jobset("Failed", REFUSED)
    cluster.settle()
    assert cluster.status["phase"] == "Failed"
    cluster.edit(image="fixed:2")
    cluster.settle()
    finish(cluster)


def restarted(cluster: SimulatedCluster) -> None:
    cluster.settle()
    cluster.train(50)
    cluster.settle()
    cluster.annotate("now", names.ANNOTATION_RESTART)
    cluster.settle()
    cluster.head = head(50, epoch=(1, 0))
    cluster.settle()
    finish(cluster)


def exhausted_and_restarted(cluster: SimulatedCluster) -> None:
    cluster.settle()
    cluster.train(50)
    cluster.settle()
    cluster.end_jobset("Failed", EXHAUSTED, restarts=4)
    cluster.settle()
    assert cluster.status["phase"] == "Failed"
    cluster.annotate("fixed", names.ANNOTATION_RESTART)
    cluster.settle()
    assert cluster.status["failuresWithoutCheckpoint"] == 0
    finish(cluster)


def cleaned_up(cluster: SimulatedCluster) -> None:
    plain(cluster)
    cluster.edit(ttlSecondsAfterFinished=1)
    cluster.settle()


STORIES: dict[str, tuple[Callable[[SimulatedCluster], None], int, dict[str, int]]] = {
    "plain": (plain, 1, {}),
    "edited": (edited, 2, {"specChanged": 1}),
    "suspended": (suspended, 2, {"resumed": 1}),
    "deleted": (deleted, 2, {"jobSetDeleted": 1}),
    "evicted": (evicted, 1, {"preempted": 1, "inPlace": 1}),
    "crashed": (crashed, 1, {"failed": 1, "inPlace": 1}),
    "evicted, all pods replaced": (evicted_all, 1, {"preempted": 1}),
    "crashed, all pods replaced": (crashed_all, 1, {"failed": 1}),
    "exhausted with progress": (exhausted_with_progress, 2, {"failed": 4}),
    "refused and fixed": (stopped_and_fixed, 2, {"specChanged": 1}),
    "restarted": (restarted, 2, {"requested": 1}),
    "exhausted and restarted": (exhausted_and_restarted, 2, {"failed": 5}),
    "cleaned up": (cleaned_up, 1, {}),
}


IN_MAKE_TEST = ("edited", "suspended", "exhausted with progress", "cleaned up")
"""Scenarios that `make test` interrupts at every write."""


def check(cluster: SimulatedCluster, attempts: int, restarts: dict[str, int]) -> None:
    """Check what must be true at the end of every scenario."""
    status = cluster.last_status
    assert status["phase"] == "Succeeded"
    assert status["attempt"] == attempts
    jobsets = [name for kind, name in cluster.api.created if kind == "JobSet"]
    assert jobsets == [f"demo-{number}" for number in range(1, attempts + 1)], "one JobSet for each attempt, in order"
    assert all(name == f"demo-{recorded}" for name, recorded in cluster.api.recorded_attempt_at_create), (
        "each number must be recorded first"
    )
    counts: dict[str, Any] = {cause: count for cause, count in status["restarts"].items() if count}
    assert counts.pop("total", 0) == sum(restarts.values()) - restarts.get("inPlace", 0)
    assert counts == restarts


@pytest.mark.parametrize("name", STORIES)
def test_a_scenario_without_faults_ends_as_expected(name: str) -> None:
    story, attempts, restarts = STORIES[name]
    cluster = SimulatedCluster(run())
    story(cluster)
    check(cluster, attempts, restarts)
    if name == "cleaned up":
        assert not cluster.api.objects, "the run must be deleted with all that it owned"


class StartedAgain(SimulatedCluster):
    """A run whose processes have started again in their pods before anything else happens."""

    def train(self, step: int, resumed: int = 0) -> None:
        super().train(step, resumed)
        if not self.status.get("restarts", {}).get("inPlace"):
            self.settle()
            self.crash()
            super().train(step, resumed)


@pytest.mark.parametrize("name", ["edited", "suspended", "deleted", "evicted", "restarted", "exhausted with progress"])
def test_a_scenario_goes_the_same_way_after_a_restart_in_place(name: str) -> None:
    story, attempts, restarts = STORIES[name]
    cluster = StartedAgain(run())
    story(cluster)
    check(
        cluster,
        attempts,
        {
            cause: restarts.get(cause, 0) + (cause in ("failed", "inPlace"))
            for cause in {*restarts, "failed", "inPlace"}
        },
    )


def every_fault_of_every_scenario() -> Iterator[Any]:
    """The cases of `make test`; the others are variants."""
    for name, fault in itertools.product(STORIES, FAULTS):
        if fault == "crash after" and name in IN_MAKE_TEST:
            yield name, fault
        elif fault == "crash after":
            yield pytest.param(name, fault, marks=pytest.mark.variant)
        elif name == "edited":
            yield pytest.param(name, fault, marks=pytest.mark.slow)
        else:
            yield pytest.param(name, fault, marks=[pytest.mark.slow, pytest.mark.variant])


@pytest.mark.parametrize(("name", "fault"), list(every_fault_of_every_scenario()))
def test_a_fault_at_any_write_does_not_change_the_end_of_a_scenario(name: str, fault: str) -> None:
    story, attempts, restarts = STORIES[name]
    undisturbed = SimulatedCluster(run())
    story(undisturbed)
    for write in range(1, undisturbed.api.writes + 1):
        cluster = SimulatedCluster(run(), {write: fault})
        story(cluster)
        check(cluster, attempts, restarts)
        assert cluster.crashes == fault.startswith("crash")


def test_two_faults_in_a_row_do_not_change_the_end_of_a_scenario() -> None:
    for first in range(1, 12):
        cluster = SimulatedCluster(run(), {first: "crash after", first + 1: "conflict", first + 2: "lose the answer"})
        deleted(cluster)
        check(cluster, 2, {"jobSetDeleted": 1})


def test_pods_of_an_earlier_run_of_the_same_name_are_ignored() -> None:
    cluster = SimulatedCluster(run())
    cluster.settle()
    cluster.train(10)
    cluster.settle()
    old = next(thing for place, thing in cluster.api.objects.items() if place.startswith(PODS))
    gone = deleted_pod(old, 5)
    gone["metadata"] |= {"uid": "older", "labels": gone["metadata"]["labels"] | {names.LABEL_RUN_UID: "an-earlier-run"}}
    assert cluster.pod_endings.record(KEY, parse_pod(gone))
    cluster.settle()
    assert cluster.status["phase"] == "Running"


def test_a_deleted_config_map_is_created_again_with_the_same_document() -> None:
    cluster = SimulatedCluster(run())
    cluster.settle()
    cluster.train(50)
    cluster.settle()
    (place,) = (place for place, thing in cluster.api.objects.items() if thing["kind"] == "ConfigMap")
    before = cluster.api.objects.pop(place)
    cluster.settle()
    assert place not in cluster.api.objects, "pods that run do not need it"
    cluster.evict()
    cluster.settle()
    state = {"waiting": {"reason": "ContainerCreating"}}
    cluster.add_pod(pod(1, 1, phase="Pending", containerStatuses=[{"name": "trainer", "state": state}]))
    cluster.settle()
    after = cluster.api.objects[place]
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    assert (after["data"], after["immutable"]) == (before["data"], True)
    assert cluster.status["attempt"] == 1
