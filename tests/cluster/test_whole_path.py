"""A run that loses its processes ends with bitwise the same losses as one that does not: the demo's promise, on a model of a few seconds.

Everything is real: API server, JobSet, kubelet, object store, operator from its chart, trainers from their image. Whatever happens, no step
beyond the last checkpoint is done again, and the run's own account of it is right.
"""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from rich.console import Console

from halcyon_api.status import TrainingRunStatus
from halcyon_demo.comparison import Loss, compare, losses
from halcyon_demo.documents import example, variant
from halcyon_demo.install import (
    RELEASE,
    Place,
    chart_values,
    install_object_store,
    install_operator,
    moved,
    provide_images,
    uninstall_operator,
)
from halcyon_demo.records import LogLine
from halcyon_demo.training import Training
from halcyon_demo.watch import Watch
from halcyon_devcluster.progress import ConsoleProgress
from tests.cluster.conftest import DevCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]

STEPS = 200
SAVE_EVERY = 20


@dataclass(frozen=True)
class Path:
    """The whole path, installed in namespaces of its own, and the losses of a run that nobody disturbed."""

    devcluster: DevCluster
    place: Place
    watch: Watch
    document: dict[str, Any]

    def training(self, name: str, **recovery: int) -> Training:
        document = variant(self.document, name=name)
        document["spec"]["recovery"] = recovery
        return Training(self.devcluster.kubectl, self.devcluster.faults, self.watch.journal, self.place.runs, document)

    def finish(self, training: Training) -> tuple[TrainingRunStatus, tuple[LogLine, ...]]:
        """The status and the log of a run when it has succeeded."""
        run = training.wait_for_phase("Succeeded")
        self.watch.finish_logs(training.name)
        return run.status, training.lines()

    def scale_operator(self, replicas: int) -> None:
        kubectl, where = self.devcluster.kubectl, ("--namespace", self.place.operator)
        kubectl("scale", f"deployment/{RELEASE}", f"--replicas={replicas}", *where)
        kubectl("rollout", "status", f"deployment/{RELEASE}", "--timeout=120s", *where)


def small_document(place: Place) -> dict[str, Any]:
    """The demo's example with a model and steps of some milliseconds."""
    (document,) = moved([example("stdlib-llama")], place)
    spec = document["spec"]
    spec["model"] = {"llama": {"layers": 2, "hiddenSize": 32, "intermediateSize": 64, "heads": 4, "kvHeads": 2}}
    spec["trainer"] = {"steps": STEPS, "batchSize": 8, "sequenceLength": 32, "evaluation": {"everySteps": 100, "batches": 1}}
    spec["checkpoint"]["save"] = {"everySteps": SAVE_EVERY}
    return document


@pytest.fixture(scope="module")
def path(devcluster: DevCluster) -> Iterator[Path]:
    mark = secrets.token_hex(3)
    place = Place(runs=f"test-runs-{mark}", operator=f"test-operator-{mark}")
    cluster = devcluster.cluster
    images = provide_images(cluster, ConsoleProgress(Console(stderr=True)))
    try:
        install_object_store(cluster, images.store, place)
        install_operator(cluster, chart_values(images, place), place)
        with Watch(devcluster.kubectl, place.runs) as watch:
            yield Path(devcluster, place, watch, small_document(place))
    finally:
        devcluster.kubectl("delete", "namespace", place.runs, "--ignore-not-found")
        uninstall_operator(cluster, place)
        devcluster.kubectl("delete", "namespace", place.operator, "--ignore-not-found", "--wait=false")


@pytest.fixture(scope="module")
def undisturbed(path: Path) -> list[Loss]:
    training = path.training("undisturbed")
    training.apply()
    status, lines = path.finish(training)
    assert status.restarts.total == 0
    assert status.checkpoint is not None
    assert (status.checkpoint.step, status.checkpoint.source) == (STEPS, "root")
    return losses(lines, training.name)


def test_an_eviction_costs_no_step(path: Path, undisturbed: list[Loss]) -> None:
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


def test_a_crash_costs_the_steps_since_the_checkpoint(path: Path, undisturbed: list[Loss]) -> None:
    training = path.training("crashed")
    training.apply()
    training.wait_for_step(65)
    recovery = training.wait_for_recovery(training.kill(0))  # the coordinator, who takes the others with him
    status, lines = path.finish(training)
    assert compare(losses(lines, training.name), undisturbed, STEPS).differences == ()
    assert recovery.resumed_step % SAVE_EVERY == 0
    assert recovery.resumed_step > 0
    assert (status.restarts.total, status.restarts.failed) == (1, 1)


def test_a_deleted_pod_a_dead_operator_and_an_eviction_without_it(path: Path, undisturbed: list[Loss]) -> None:
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


def test_the_store_holds_what_the_status_says(path: Path, undisturbed: list[Loss]) -> None:
    run = path.watch.journal.run("undisturbed")
    assert run is not None
    assert run.status.checkpoint is not None
    assert run.status.progress is not None
    assert run.status.progress.step == STEPS
    assert run.status.checkpoint.path.startswith(f"steps/{STEPS:012d}.000001.")


def test_the_operator_never_wanted_a_right_that_it_lacks(path: Path, undisturbed: list[Loss]) -> None:
    said = path.devcluster.kubectl("logs", f"deployment/{RELEASE}", "--namespace", path.place.operator)
    assert said
    assert "forbidden" not in said.lower()
