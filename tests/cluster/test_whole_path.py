"""A run that loses its processes ends with bitwise the same losses as one that does not: the demo's promise, on a model of a few seconds.

Everything is real: API server, JobSet, kubelet, object store, operator from its chart, trainers from their image. Whatever happens, no step
beyond the last checkpoint is done again, and the run's own account of it is right.
"""

import pytest

from halcyon_demo.comparison import Loss, compare, losses
from halcyon_demo.install import RELEASE
from tests.cluster.whole_path import SAVE_EVERY, STEPS, WholePath

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]


def test_an_eviction_costs_no_step(path: WholePath, undisturbed: list[Loss]) -> None:
    training = path.training("evicted")
    training.apply()
    training.wait_for_step(60)
    recovery = training.wait_for_recovery(training.evict(1))
    status, lines = path.finish(training)
    comparison = compare(losses(lines, training.name), undisturbed, STEPS)
    assert comparison.differences == ()
    assert comparison.repeated == 0
    assert recovery.lost_steps == 0
    assert recovery.resumed_step >= 60
    assert (status.restarts.total, status.restarts.preempted, status.restarts.failed) == (1, 1, 0)
    assert [entry.cause for entry in status.history] == ["preempted", "completed"]
    assert status.goodput is not None
    assert status.goodput.lost_steps == 0


def test_a_crash_costs_the_steps_since_the_checkpoint(path: WholePath, undisturbed: list[Loss]) -> None:
    training = path.training("crashed")
    training.apply()
    training.wait_for_step(65)
    recovery = training.wait_for_recovery(training.kill(0))  # the coordinator, who takes the others with him
    status, lines = path.finish(training)
    assert compare(losses(lines, training.name), undisturbed, STEPS).differences == ()
    assert recovery.resumed_step % SAVE_EVERY == 0
    assert recovery.resumed_step > 0
    assert (status.restarts.total, status.restarts.failed) == (1, 1)


def test_a_deleted_pod_a_dead_operator_and_an_eviction_without_it(path: WholePath, undisturbed: list[Loss]) -> None:
    training = path.training("troubled")
    training.apply()
    training.wait_for_step(30)
    victim = training.running_pod(1)
    path.devcluster.kubectl("delete", "pod", victim.name, "--namespace", path.place.runs, "--wait=false")
    path.watch.journal.wait(
        lambda: True if any(line.world > victim.world for line in training.lines() if line.event == "step") else None,
        timeout_seconds=300,
        failure=lambda: "the run has not gone on after the deletion of a pod",
    )
    path.scale_operator(0)
    training.wait_for_recovery(training.evict(0))  # JobSet restarts the world while nobody looks
    path.scale_operator(1)
    status, lines = path.finish(training)
    assert compare(losses(lines, training.name), undisturbed, STEPS).differences == ()
    assert status.restarts.total == 2
    assert len({line.world for line in lines if line.event == "step"}) == 3


def test_the_store_holds_what_the_status_says(path: WholePath, undisturbed: list[Loss]) -> None:
    run = path.watch.journal.run("undisturbed")
    assert run is not None
    assert run.status.checkpoint is not None
    assert run.status.progress is not None
    assert run.status.progress.step == STEPS
    assert run.status.checkpoint.path.startswith(f"steps/{STEPS:012d}.000001.")


def test_the_operator_never_wanted_a_right_that_it_lacks(path: WholePath, undisturbed: list[Loss]) -> None:
    said = path.devcluster.kubectl("logs", f"deployment/{RELEASE}", "--namespace", path.place.operator)
    assert said
    assert "forbidden" not in said.lower()


def test_a_run_of_stage_data_builds_what_others_train_on(path: WholePath) -> None:
    cache = "s3://checkpoints/tokens-of-a-stage"
    building = path.training("tokens", stage="data", cache=cache)
    building.apply()
    status, lines = path.finish(building)
    built = [line for line in lines if line.event == "tokenized" and line.fields["finished"]]
    assert {line.fields["source"] for line in built} == {"source", "documentation"}
    assert status.progress is None or status.progress.step == 0
    assert len(built) == 2, "one of the two pods built, the other one waited"
    assert status.restarts.total == 0
    training = path.training("reader", cache=cache)
    training.apply()
    training.wait_for_step(5)
    assert not [line for line in training.lines() if line.event == "tokenized"]
    training.delete()
