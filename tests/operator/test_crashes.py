"""The operator is killed, or its request fails, at every single write of every scenario, and every scenario ends the same."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from halcyon_api import names
from halcyon_operator.observe.pods import parse_pod
from tests.operator.builders import EXHAUSTED, REFUSED, ended, head, run, termination
from tests.operator.builders import deleted as deleted_pod
from tests.operator.simulation import KEY, PODS, SimulatedCluster

FAULTS = ("crash after", "crash before", "lose the answer", "refuse", "conflict")


def finish(world: SimulatedCluster) -> None:
    world.train(200)
    world.settle()
    world.head = head(300, epoch=(world.status["attempt"], 0))
    world.end_jobset("Completed")
    world.settle()


def plain(world: SimulatedCluster) -> None:
    world.settle()
    finish(world)


def edited(world: SimulatedCluster) -> None:
    world.settle()
    world.train(50)
    world.settle()
    world.edit(image="other:2")
    world.settle()
    world.head = head(50, epoch=(1, 0))
    world.settle()
    finish(world)


def suspended(world: SimulatedCluster) -> None:
    world.settle()
    world.train(50)
    world.settle()
    world.suspend(50)
    world.edit(suspend=False)
    world.settle()
    finish(world)


def deleted(world: SimulatedCluster) -> None:
    world.settle()
    world.train(50)
    world.settle()
    world.delete_jobset()
    world.settle()
    finish(world)


def evicted(world: SimulatedCluster) -> None:
    """One pod is evicted, the operator ends the other pod, and the JobSet creates new ones."""
    world.settle()
    world.train(50)
    world.settle()
    world.evict()
    world.settle()
    finish(world)


def exhausted_with_progress(world: SimulatedCluster) -> None:
    world.settle()
    world.train(50)
    world.head = head(40)
    world.settle()
    world.head = head(60)
    world.end_jobset("Failed", EXHAUSTED, restarts=3)
    world.settle()
    finish(world)


def stopped_and_fixed(world: SimulatedCluster) -> None:
    world.settle()
    said = ended(83, world.now, termination("runChanged", 83, attempt=world.status["attempt"]))
    for place in world.api.objects:
        if place.startswith(PODS):
            world.api.objects[place]["status"] = said
    world.end_jobset("Failed", REFUSED)
    world.settle()
    assert world.status["phase"] == "Failed"
    world.edit(image="fixed:2")
    world.settle()
    finish(world)


def restarted(world: SimulatedCluster) -> None:
    world.settle()
    world.train(50)
    world.settle()
    world.annotate("now", names.ANNOTATION_RESTART)
    world.settle()
    world.head = head(50, epoch=(1, 0))
    world.settle()
    finish(world)


def exhausted_and_restarted(world: SimulatedCluster) -> None:
    world.settle()
    world.train(50)
    world.settle()
    world.end_jobset("Failed", EXHAUSTED, restarts=4)
    world.settle()
    assert world.status["phase"] == "Failed"
    world.annotate("fixed", names.ANNOTATION_RESTART)
    world.settle()
    assert world.status["failuresWithoutCheckpoint"] == 0
    finish(world)


def cleaned_up(world: SimulatedCluster) -> None:
    plain(world)
    world.edit(ttlSecondsAfterFinished=1)
    world.settle()


STORIES: dict[str, tuple[Callable[[SimulatedCluster], None], int, dict[str, int]]] = {
    "plain": (plain, 1, {}),
    "edited": (edited, 2, {"specChanged": 1}),
    "suspended": (suspended, 2, {"resumed": 1}),
    "deleted": (deleted, 2, {"jobSetDeleted": 1}),
    "evicted": (evicted, 1, {"preempted": 1}),
    "exhausted with progress": (exhausted_with_progress, 2, {"failed": 4}),
    "refused and fixed": (stopped_and_fixed, 2, {"specChanged": 1}),
    "restarted": (restarted, 2, {"requested": 1}),
    "exhausted and restarted": (exhausted_and_restarted, 2, {"failed": 5}),
    "cleaned up": (cleaned_up, 1, {}),
}


def check(world: SimulatedCluster, attempts: int, restarts: dict[str, int]) -> None:
    """Check what must be true at the end of every scenario."""
    status = world.last_status
    assert status["phase"] == "Succeeded"
    assert status["attempt"] == attempts
    jobsets = [name for kind, name in world.api.created if kind == "JobSet"]
    assert jobsets == [f"demo-{number}" for number in range(1, attempts + 1)], "one JobSet for each attempt, in order"
    assert all(name == f"demo-{recorded}" for name, recorded in world.api.recorded_attempt_at_create), "each number must be recorded first"
    counts: dict[str, Any] = {cause: count for cause, count in status["restarts"].items() if count}
    assert counts.pop("total", 0) == sum(restarts.values())
    assert counts == restarts


@pytest.mark.parametrize("name", STORIES)
def test_a_scenario_without_faults_ends_as_expected(name: str) -> None:
    story, attempts, restarts = STORIES[name]
    world = SimulatedCluster(run())
    story(world)
    check(world, attempts, restarts)
    if name == "cleaned up":
        assert not world.api.objects, "the run must be deleted with all that it owned"


def every_fault_of_every_scenario() -> Iterator[Any]:
    """The cases of `make test`; the others are variants."""
    for name, fault in itertools.product(STORIES, FAULTS):
        if fault == "crash after":
            yield name, fault
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
        world = SimulatedCluster(run(), {write: fault})
        story(world)
        check(world, attempts, restarts)
        assert world.crashes == fault.startswith("crash")


def test_two_faults_in_a_row_do_not_change_the_end_of_a_scenario() -> None:
    for first in range(1, 12):
        world = SimulatedCluster(run(), {first: "crash after", first + 1: "conflict", first + 2: "lose the answer"})
        deleted(world)
        check(world, 2, {"jobSetDeleted": 1})


def test_pods_of_an_earlier_run_of_the_same_name_are_ignored() -> None:
    world = SimulatedCluster(run())
    world.settle()
    world.train(10)
    world.settle()
    old = next(thing for place, thing in world.api.objects.items() if place.startswith(PODS))
    gone = deleted_pod(old, 5)
    gone["metadata"] |= {"uid": "older", "labels": gone["metadata"]["labels"] | {names.LABEL_RUN_UID: "an-earlier-run"}}
    assert world.pod_endings.record(KEY, parse_pod(gone))
    world.settle()
    assert world.status["phase"] == "Running"
