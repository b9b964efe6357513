"""A process that crashes twice on one node: its pod alone goes on elsewhere, and the losses are those of an undisturbed
run.
"""

from __future__ import annotations

import pytest

from halcyon_api.names import ANNOTATION_CHECKPOINT, guard_name
from halcyon_demo.training import RESOURCE
from halcyon_devcluster.containerd import Task
from halcyon_devcluster.waiting import until
from halcyon_devcluster.worker import Worker
from tests.cluster.in_place import Faults, document
from tests.cluster.life import WITHOUT_END
from tests.cluster.test_corruption import nodes, second_node, spread
from tests.cluster.whole_path import WholePath
from tests.suite import promises

pytestmark = [pytest.mark.cluster, pytest.mark.alone, pytest.mark.timeout(600)]
NAME = "broken-device"


def main_process(path: WholePath, run: str, worker: Worker, pod: str) -> Task:
    """The first process of a pod, on either node."""
    there = nodes(path, run)[int(pod.split("-s-")[1].split("-")[0])]
    ctr = worker.ctr if there == worker.name else path.devcluster.cluster.ctr
    own = set(ctr.containers(path.place.runs, pod))
    return next(task for task in ctr.tasks() if task.container in own and task.status == "RUNNING")


@promises.BAD_NODES
def test_only_the_pod_that_crashes_twice_leaves_its_node(path: WholePath) -> None:
    found, kubectl, where = document(path, NAME), path.devcluster.kubectl, ("--namespace", path.place.runs)
    found["spec"]["checkpoint"].pop("memory")
    found["spec"]["checkpoint"]["save"] = {"everySteps": WITHOUT_END}  # none between the crashes
    training = path.training_of(found)

    def guards() -> list[str]:
        return kubectl("get", "jobsets", *where, "--output=jsonpath={.items[*].metadata.name}").split()

    try:
        with second_node(path) as worker:
            before = spread(path, training, worker, 2)
            (broken,) = (number for number, node in before.items() if node == worker.name)
            guard = guard_name(NAME, worker.name)

            training.wait_for_step(1)
            kubectl("annotate", "trainingrun", NAME, *where, f"{ANNOTATION_CHECKPOINT}=one")
            faults = Faults(path, training, lambda pod: main_process(path, NAME, worker, pod))
            until(lambda: faults.status.checkpoint, timeout_seconds=60, failure=lambda: str(faults.status))
            faults.strikes("a crash", lambda: faults.kill_trainers(broken), set())
            faults.history(2)
            assert guard not in guards()
            faults.strikes("the next crash of the same process", lambda: faults.kill_trainers(broken), {broken})
            until(
                lambda: worker.name not in nodes(path, NAME).values(),
                timeout_seconds=60,
                failure=lambda: str(nodes(path, NAME)),
            )
            status = faults.history(3)
            assert [entry.cause for entry in status.history] == ["failed", "failed", None]
            assert (status.attempt, status.job_set_restarts, status.restarts.in_place) == (1, 0, 2)
            assert status.placement is not None
            assert [(one.node, one.attempt) for one in status.placement.avoided] == [(worker.name, 1)]
            assert guard in guards()
            path.suspend(training, True)
            until(lambda: guard not in guards(), timeout_seconds=30, failure=lambda: str(guards()))
        path.suspend(training, False)
        training.wait_for_step(training.step() + 1)
        faults.compare()
    finally:
        kubectl("delete", RESOURCE, NAME, *where, "--ignore-not-found", "--wait=false")
