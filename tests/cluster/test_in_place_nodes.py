"""A node stops answering. Its pod is replaced alone, and the node comes back with its old processes alive: they join
nobody, and commit nothing. Or nobody says that its processes have ended, and all pods are replaced.
"""

from __future__ import annotations

from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path

import pytest

from halcyon_api.names import AGENT_PORT
from halcyon_demo.training import RESOURCE
from halcyon_devcluster.containerd import Task
from halcyon_devcluster.waiting import until
from tests.cluster.in_place import SOME_STEPS, Faults, document
from tests.cluster.test_corruption import second_node, spread
from tests.cluster.whole_path import WholePath

pytestmark = [pytest.mark.cluster, pytest.mark.alone, pytest.mark.variant, pytest.mark.timeout(1800)]
NAME = "lost-node"
JOIN_SECONDS = 600
"""For so long the others wait for a lost process."""
SHUT_DOWN = "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"
"""The taint with which the owner of a cluster says that the processes of a node have ended. Here they have not."""


def arrivals(supervisor: int, address: str) -> set[str]:
    """The connections that a supervisor has from a pod, or had a short time ago."""
    there = ip_address(address).packed[::-1].hex().upper()
    tables = [Path(f"/proc/{supervisor}/net/{table}").read_text() for table in ("tcp", "tcp6")]
    lines = [line.split() for table in tables for line in table.splitlines()]
    return {remote for _, own, remote, *_ in lines if own.endswith(f":{AGENT_PORT:04X}") and f"{there}:" in remote}


def test_a_node_that_comes_back_after_its_pod_was_replaced_disturbs_nobody(path: WholePath) -> None:
    training, kubectl, where = path.training_of(document(path, NAME)), path.devcluster.kubectl, path.place.runs
    try:
        with second_node(path) as worker, ExitStack() as kubelet, ExitStack() as network:
            nodes = spread(path, training, worker, 2)
            (lost,) = (number for number, node in nodes.items() if node == worker.name)

            def main_process(pod: str) -> Task:
                ctr = worker.ctr if pod == old_pod else path.devcluster.cluster.ctr
                own = set(ctr.containers(where, pod))
                return next(task for task in ctr.tasks() if task.container in own and task.status == "RUNNING")

            training.wait_for_step(1)
            faults = Faults(path, training, main_process)
            old_pod = training.running_pod(lost).name
            address = kubectl("get", "pod", old_pod, "--namespace", where, "--output=jsonpath={.status.podIP}")
            old = main_process(old_pod).pid

            def node_is_lost() -> None:
                network.enter_context(worker.cut_off(address))
                kubelet.enter_context(worker.kubelet_frozen())
                until(
                    lambda: not path.devcluster.faults.node_ready(),
                    timeout_seconds=60,
                    failure=lambda: kubectl("get", "nodes"),
                )
                kubectl("taint", "node", worker.name, SHUT_DOWN)

            faults.strikes(f"the node of process {lost} stops answering", node_is_lost, {lost})
            assert Path(f"/proc/{old}").exists(), "its processes go on"
            other = faults.supervisor(1 - lost).pid
            faults.undisturbed("the run beside the old processes")
            pods, starts = faults.pods(), len(faults.restored())
            known = arrivals(other, address)
            network.close()
            until(
                lambda: lost == 0 or bool(arrivals(other, address) - known),  # the others look for a process 0 by name
                timeout_seconds=60,
                failure=lambda: "the old supervisor does not come back",
            )
            faults.undisturbed("the network of the node comes back")
            kubectl("taint", "node", worker.name, f"{SHUT_DOWN}-")
            kubelet.close()
            until(
                lambda: not Path(f"/proc/{old}").exists(),
                timeout_seconds=90,
                failure=lambda: kubectl("get", "pods", "--namespace", where, "--output=wide"),
            )
            faults.undisturbed("the kubelet of the node comes back")
            assert (faults.pods(), len(faults.restored())) == (pods, starts)
            status = faults.history(2)
            assert [entry.cause for entry in status.history] == ["preempted", None]
            assert (status.job_set_restarts, status.restarts.in_place, status.restarts.total) == (0, 1, 1)
            faults.compare()
    finally:
        kubectl("delete", RESOURCE, NAME, "--namespace", where, "--ignore-not-found", "--wait=false")


def test_all_pods_are_replaced_after_a_node_was_silent_for_too_long(path: WholePath) -> None:
    training, kubectl, where = path.training_of(document(path, "silent-node")), path.devcluster.kubectl, path.place.runs
    try:
        with second_node(path) as worker, ExitStack() as silence:
            nodes = spread(path, training, worker, 2)
            (lost,) = (number for number, node in nodes.items() if node == worker.name)
            training.wait_for_step(1)
            faults = Faults(path, training)
            training.wait_for_step(SOME_STEPS)
            pods, pod = faults.pods(), training.running_pod(lost).name
            address = kubectl("get", "pod", pod, "--namespace", where, "--output=jsonpath={.status.podIP}")
            silence.enter_context(worker.cut_off(address))
            silence.enter_context(worker.kubelet_frozen())
            until(
                lambda: faults.pods().get(1 - lost) != pods[1 - lost],
                timeout_seconds=JOIN_SECONDS + 120,
                failure=lambda: str(faults.status),
            )
            steps = training.step()
            silence.close()
            training.wait_for_step(steps + SOME_STEPS)
            now, status = faults.pods(), faults.history(2)
            assert not set(pods.values()) & set(now.values())
            assert (status.attempt, status.job_set_restarts, status.job_set_restarts_counted) == (1, 1, 0)
            assert status.failures_without_checkpoint == 0, "the run did not fail"
            faults.compare()
    finally:
        kubectl("delete", RESOURCE, training.name, "--namespace", where, "--ignore-not-found", "--wait=false")
