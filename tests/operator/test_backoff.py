"""Ends that are free of charge never stop a run; without progress, each next attempt waits longer."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from halcyon_api import names
from halcyon_api.status import TrainingRunStatus
from halcyon_operator.decide.backoff import FIRST_PAUSE_SECONDS, FREE_ENDS_IN_A_ROW, LONGEST_PAUSE_SECONDS, backoff_of
from halcyon_operator.model.views import HeadUnreachable
from tests.operator.builders import REFUSED, ended, head, run, termination
from tests.operator.simulation import PODS, SimulatedCluster


def refuse(world: SimulatedCluster, cause: str = "rootUnusable", code: int = 85) -> None:
    """The store denies access, so the trainer gives up."""
    said = ended(code, world.now, termination(cause, code, attempt=world.status["attempt"], said="the store refuses access"))
    for place in world.api.objects:
        if place.startswith(PODS):
            world.api.objects[place]["status"] = said
    world.end_jobset("Failed", REFUSED)
    world.settle()


def ready(world: SimulatedCluster) -> dict[str, Any]:
    return next(one for one in world.status["conditions"] if one["type"] == "Ready")


def attempts(world: SimulatedCluster) -> int:
    return int(world.status["attempt"])


def wait_for_next_attempt(world: SimulatedCluster) -> float:
    """Wait until the next attempt is made, and check that it is not made before it is due. Returns the pause since the last end, in
    seconds."""
    before, hold = attempts(world), backoff_of(TrainingRunStatus.model_validate(world.status))
    assert hold is not None
    world.now += max(0.0, (hold.until - world.clock()).total_seconds() - 10)
    world.settle()
    assert attempts(world) == before
    world.now += 10
    world.settle()
    assert attempts(world) == before + 1
    ended = next(entry for entry in reversed(world.status["history"]) if entry.get("cause", "heldBack") != "heldBack")
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
def test_a_store_that_refuses_is_retried_with_growing_pauses_and_without_end(cause: str, code: int, reason: str, readable: bool) -> None:
    world = SimulatedCluster(run())
    if not readable:
        world.head = HeadUnreachable("the operator's own credentials do not open it")
    world.settle()
    pauses = []
    for _ in range(10):
        refuse(world, cause, code)
        assert (world.status["phase"], ready(world)["reason"]) == ("Restarting", reason)
        assert "the store refuses access" in ready(world)["message"]
        assert world.jobset is None, "it must hold no hardware while it waits"
        stalled = next(one for one in world.status["conditions"] if one["type"] == "Stalled")
        assert stalled["status"] == "False"
        pauses.append(wait_for_next_attempt(world))
    assert pauses == [min(FIRST_PAUSE_SECONDS * 2**number, LONGEST_PAUSE_SECONDS) for number in range(10)]
    assert world.status["restarts"][cause] == 10
    finish(world)


def finish(world: SimulatedCluster) -> None:
    world.train(200)
    world.settle()
    world.head = head(300, epoch=(attempts(world), 0))
    world.end_jobset("Completed")
    world.settle()
    assert world.status["phase"] == "Succeeded"


@pytest.mark.parametrize("way", ["edit", "restart"])
def test_an_edit_or_a_restart_request_ends_the_pause(way: str) -> None:
    world = SimulatedCluster(run())
    world.settle()
    for _ in range(5):
        refuse(world)
        world.now += LONGEST_PAUSE_SECONDS
        world.settle()
    refuse(world)
    before = attempts(world)
    world.settle()
    assert attempts(world) == before
    if way == "edit":
        world.edit(image="fixed:2")
    else:
        world.annotate("fixed", names.ANNOTATION_RESTART)
    world.settle()
    assert attempts(world) == before + 1
    finish(world)


def test_a_checkpoint_makes_the_pauses_short_again() -> None:
    world = SimulatedCluster(run())
    world.settle()
    for _ in range(5):
        refuse(world)
        world.now += LONGEST_PAUSE_SECONDS
        world.settle()
    world.train(50)
    world.settle()
    world.head = head(50, epoch=(attempts(world), 0))
    world.settle()
    world.evict()
    world.settle()
    refuse(world)
    assert "1 ends in a row" in ready(world)["message"]
    assert wait_for_next_attempt(world) == FIRST_PAUSE_SECONDS


def train_and_evict(world: SimulatedCluster) -> None:
    """Train a few steps, without a checkpoint, and evict."""
    world.train(5)
    world.settle()
    world.evict()
    world.settle()


def test_evictions_without_a_checkpoint_are_free_at_first_and_then_delayed() -> None:
    world = SimulatedCluster(run())
    world.settle()
    for number in range(1, FREE_ENDS_IN_A_ROW + 1):
        assert attempts(world) == 1, "the JobSet restarts it without a new attempt"
        train_and_evict(world)
        assert world.status["restarts"]["preempted"] == number
    assert (world.status["phase"], ready(world)["reason"]) == ("Restarting", "RestartsWithoutCheckpoint")
    assert world.jobset is None
    pauses = []
    for _ in range(9):
        pauses.append(wait_for_next_attempt(world))
        assert world.jobset is not None, "each new attempt must start"
        train_and_evict(world)
    assert pauses == [min(FIRST_PAUSE_SECONDS * 2**number, LONGEST_PAUSE_SECONDS) for number in range(9)]
    assert world.status["phase"] == "Restarting"
    wait_for_next_attempt(world)
    finish(world)


def test_evictions_with_checkpoints_between_them_are_never_delayed() -> None:
    world = SimulatedCluster(run())
    world.settle()
    for number in range(1, 3 * FREE_ENDS_IN_A_ROW):
        world.train(10 * number, resumed=10 * (number - 1))
        world.settle()
        world.head = head(10 * number, epoch=(1, number - 1))
        world.settle()
        world.evict()
        world.settle()
    assert attempts(world) == 1
    finish(world)
