"""A suspended run saves first, however long that takes, and then releases its hardware."""

from __future__ import annotations

from typing import Any

from halcyon_operator.decide.record.edits import MAX_ACCEPT_SECONDS, MAX_SAVE_SECONDS
from tests.operator.builders import head, run
from tests.operator.simulation import SimulatedCluster


def training(**spec: Any) -> SimulatedCluster:
    cluster = SimulatedCluster(run(**spec))
    cluster.settle()
    cluster.train(50)
    cluster.head = head(40)
    cluster.settle()
    assert cluster.status["phase"] == "Running"
    return cluster


def ready(cluster: SimulatedCluster) -> tuple[str, str, str]:
    found = next(one for one in cluster.status["conditions"] if one["type"] == "Ready")
    return cluster.status["phase"], found["reason"], found["message"]


def test_a_suspended_run_is_asked_for_a_checkpoint_and_stopped_when_it_is_committed() -> None:
    cluster = training()
    cluster.edit(suspend=True)
    cluster.settle()
    ((_, asked, step),) = cluster.asked
    assert (asked, step) == ((1, 0), 50)
    sentence = "attempt 1, restart 0 is training; a checkpoint is asked for, then the hardware is released"
    assert ready(cluster) == ("Suspending", "Suspending", sentence)
    cluster.now += MAX_SAVE_SECONDS / 2  # longer than any grace period
    cluster.head = head(45)
    cluster.settle()
    assert (cluster.jobset is not None, cluster.status["phase"]) == (True, "Suspending"), (
        "step 45 is not the last step, so it must wait"
    )
    cluster.head = head(50)
    cluster.settle()
    assert (cluster.status["phase"], cluster.jobset) == ("Suspended", None)
    assert "edit" not in cluster.status
    cluster.edit(suspend=False)
    cluster.settle()
    assert (cluster.status["attempt"], cluster.status["restarts"]["resumed"]) == (2, 1)


def test_a_run_whose_saves_fail_is_shown_as_suspending() -> None:
    cluster = training()
    cluster.reports[1, 0] = cluster.reports[1, 0].model_copy(update={"checkpoint_error": "the root has no space left"})
    cluster.edit(suspend=True)
    cluster.settle()
    phase, reason, message = ready(cluster)
    assert (phase, reason) == ("Suspending", "Suspending")
    assert "but the last save failed: the root has no space left; a checkpoint is asked for" in message


def test_a_run_whose_suspension_is_withdrawn_trains_on() -> None:
    cluster = training()
    cluster.edit(suspend=True)
    cluster.settle()
    cluster.edit(suspend=False)
    cluster.settle()
    assert (cluster.status["phase"], cluster.status["attempt"], cluster.status.get("edit")) == ("Running", 1, None)
    cluster.head = head(60)
    cluster.settle()
    assert cluster.status["attempt"] == 1


def test_the_wait_for_a_trainer_that_cannot_save_is_bounded() -> None:
    slow = training()
    slow.edit(suspend=True)
    slow.settle()
    slow.now += MAX_SAVE_SECONDS - 10
    slow.settle()
    assert slow.jobset is not None
    slow.now += 10
    slow.settle()
    assert slow.status["phase"] == "Suspended"
    deaf = training()
    deaf.send_save_request = refuses  # type: ignore[method-assign]
    deaf.edit(suspend=True)
    deaf.settle()
    assert deaf.jobset is not None
    deaf.now += MAX_ACCEPT_SECONDS
    deaf.settle()
    assert deaf.status["phase"] == "Suspended"


async def refuses(_: Any) -> str:
    """A trainer that accepts no request."""
    return "it does not answer"


def test_a_run_with_nothing_to_save_is_suspended_at_once() -> None:
    starting = SimulatedCluster(run())
    starting.settle()
    starting.edit(suspend=True)
    starting.settle()
    assert (starting.status["phase"], starting.jobset) == ("Suspended", None)
    tokenizing = SimulatedCluster(run(task="data"))
    tokenizing.settle()
    tokenizing.train(0)
    tokenizing.settle()
    tokenizing.edit(suspend=True)
    tokenizing.settle()
    assert (tokenizing.status["phase"], tokenizing.jobset, tokenizing.asked) == ("Suspended", None, [])


def test_a_jobset_deleted_during_the_save_releases_the_hardware() -> None:
    cluster = training()
    cluster.edit(suspend=True)
    cluster.settle()
    cluster.delete_jobset()
    cluster.settle()
    assert (cluster.status["phase"], cluster.jobset) == ("Suspended", None)
    assert [entry.get("cause") for entry in cluster.status["history"]] == ["jobSetDeleted"]
