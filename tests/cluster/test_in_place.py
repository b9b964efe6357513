"""Real trainers start again in their pods: each fault replaces only the pod that it hit, and the losses are those of an
undisturbed run.
"""

from __future__ import annotations

import pytest

from halcyon_demo.training import RESOURCE
from halcyon_devcluster.native import NativeCluster
from tests.cluster.in_place import Faults, document
from tests.cluster.whole_path import WholePath

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200), pytest.mark.xdist_group("path")]
NAME = "in-place"


def test_a_fault_replaces_only_the_pod_that_it_hit(path: WholePath) -> None:
    if not isinstance(path.devcluster.cluster, NativeCluster):
        pytest.skip("the processes of a cluster of kind are not visible")
    training = path.training_of(document(path, NAME))
    try:
        training.apply()
        training.wait_for_step(1)
        faults = Faults(path, training)
        faults.kill_spare(1)
        faults.strikes("SIGKILL of a trainer without a spare process", lambda: faults.kill_trainers(1), set())
        faults.strikes("SIGKILL of both trainers", lambda: faults.kill_trainers(0, 1), set())
        found = faults.strikes("changed bytes, SIGKILL of both trainers", lambda: faults.change_memory(1), set())
        assert found.fields["peerFiles"], "the other pod has what was changed"
        faults.strikes("SIGKILL of a supervisor", lambda: faults.kill_supervisors(1), {1})
        faults.strikes("deletion", lambda: delete(path, training.running_pod(0).name), {0})
        history = faults.history(6).history
        assert [entry.cause for entry in history] == ["failed"] * 4 + ["podDeleted", None]

        # Without the operator the Job replaces a pod, after its pause.
        path.operator.scale(0)
        faults.strikes("SIGKILL of a trainer without an operator", lambda: faults.kill_trainers(0), set())
        faults.strikes("eviction without an operator", lambda: training.evict(1), {1})
        pods = faults.pods()
        path.operator.scale(1)
        status = faults.history(8)
        assert faults.pods() == pods
        assert [entry.cause for entry in status.history[5:]] == ["failed", "preempted", None]
        assert status.history[6].to_step == status.history[7].from_step, "an eviction repeats no step"
        assert (status.job_set_restarts, status.restarts.in_place, status.restarts.total) == (0, 7, 7)
        found = faults.strikes("SIGKILL of both supervisors", lambda: faults.kill_supervisors(0, 1), {0, 1})
        assert "ownFiles" not in found.fields, "the memory of both pods is lost"
        status = faults.history(9)
        assert [entry.cause for entry in status.history[7:]] == ["failed", None]
        assert (status.job_set_restarts, status.restarts.in_place, status.restarts.total) == (1, 7, 8)
        path.suspend(training, True)
        last = training.step()
        path.suspend(training, False)
        training.wait_for_step(last + 1)
        status = faults.status
        assert status.goodput is not None
        assert status.goodput.seconds.total == pytest.approx(status.goodput.wall_seconds, abs=0.001)
        faults.compare()
    finally:
        where = ("--namespace", path.place.runs, "--ignore-not-found", "--wait=false")
        path.devcluster.kubectl("delete", RESOURCE, NAME, *where)


def delete(path: WholePath, pod: str) -> None:
    path.devcluster.kubectl("delete", "pod", pod, "--namespace", path.place.runs, "--wait=false")
