"""The whole life of a cluster: created, damaged, repaired, crashed, deleted without a trace. In its own cluster, beside
that of other tests.

Further cases: the end of test_installation.py also shows that `down` leaves nothing behind. These tests run alone,
because they compare the machine before and after, and would see another cluster start or stop.

Only for the native cluster: kind and Docker are responsible for what a kind cluster leaves behind. The tests depend on
their order.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest

from halcyon_devcluster import Cluster, DevclusterError, Faults, open_cluster
from halcyon_devcluster.cgroups import ControlGroup
from halcyon_devcluster.engine import Backend
from halcyon_devcluster.images import Buildable, build
from halcyon_devcluster.native import NativeCluster
from halcyon_devcluster.processes import Processes
from halcyon_devcluster.waiting import until
from tests.cluster.conftest import PROGRESS
from tests.cluster.footprint import Footprint, footprint
from tests.cluster.workloads import phase, pod, pod_spec, wait_for_phase
from tests.suite.limits import limit

pytestmark = [pytest.mark.cluster, pytest.mark.variant, pytest.mark.alone]

NAME = "lifecycle"


@pytest.fixture(scope="module")
def clean_machine() -> Iterator[Footprint]:
    """The machine's footprint before the tests. The cluster is deleted after the last test, also if a test fails."""
    cluster = open_cluster(NAME)
    if cluster.backend is not Backend.NATIVE:
        pytest.skip("only for native clusters")
    cluster.down(purge=True)
    before = footprint(NAME)
    assert before["processes"] == []
    yield before
    cluster.down(purge=True)


@pytest.fixture
def cluster(clean_machine: Footprint) -> NativeCluster:
    cluster = open_cluster(NAME, progress=PROGRESS)
    assert isinstance(cluster, NativeCluster)
    return cluster


def pid_of(cluster: Cluster, component: str) -> int:
    record = Processes(cluster.paths.records, cluster.paths.logs).running(component)
    assert record is not None, f"{component} does not run"
    return record.pid


def node_uid(cluster: Cluster) -> str:
    return cluster.kubectl("get", "node", NAME, "--output=jsonpath={.metadata.uid}")


def wait_until(condition: Callable[[], bool], what: str) -> None:
    until(condition, timeout_seconds=90, failure=lambda: f"never: {what}")


def test_up_gives_a_ready_node_and_jobsets(cluster: NativeCluster):
    cluster.up()
    status = cluster.status()
    assert status.ready
    assert {"node Ready", "JobSet Available", "CoreDNS Available"} <= {row.name for row in status.components}
    assert cluster.kubectl("auth", "can-i", "*", "*").strip() == "yes"


def test_another_cluster_is_not_disturbed(cluster: NativeCluster):
    """Its firewall rules are in its own network namespaces: this host has none of them."""
    assert not [rule for rule in footprint(NAME)["rules"] if "KUBE" in rule or "CNI" in rule]


def test_up_restarts_dead_components_and_keeps_the_others(cluster: NativeCluster):
    uid, apiserver = node_uid(cluster), pid_of(cluster, "kube-apiserver")
    victims = {name: pid_of(cluster, name) for name in ("kube-scheduler", "kubelet", "etcd")}
    killed = datetime.now(UTC)
    for pid in victims.values():
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not cluster.status().ready, "the loss of components is seen")
    cluster.up()
    assert cluster.status().ready
    assert cluster.kubectl.node_ready(NAME, since=killed)
    assert node_uid(cluster) == uid
    assert pid_of(cluster, "kube-apiserver") == apiserver
    assert all(pid_of(cluster, name) != pid for name, pid in victims.items())


def test_pods_outlive_the_api_server_and_the_kubelet(cluster: NativeCluster):
    image = cluster.load(build(Buildable.BASE, cache=cluster.paths.cache, progress=PROGRESS))
    kubectl, faults = cluster.kubectl, Faults(cluster)
    stubborn = pod_spec(image, "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause()")
    stubborn["volumes"] = [{"name": "memory", "emptyDir": {"medium": "Memory"}}]
    stubborn["containers"][0]["volumeMounts"] = [{"name": "memory", "mountPath": "/memory"}]
    kubectl("wait", "--for=create", "serviceaccount/default", f"--timeout={limit(60)}s")
    kubectl.apply([pod("stubborn", stubborn)])
    wait_for_phase(kubectl, "default", "stubborn", "Running")
    ids = cluster.ctr.containers("default", "stubborn")

    with faults.apiserver_down():
        assert not kubectl.succeeds("get", "nodes")
        assert {task.container for task in cluster.ctr.tasks()} >= set(ids)
    assert phase(kubectl, "default", "stubborn") == "Running"

    with faults.kubelet_down():
        wait_until(lambda: not faults.node_ready(), "the node is NotReady")
    assert faults.node_ready()
    assert cluster.ctr.containers("default", "stubborn") == ids


def test_down_leaves_nothing_behind_and_keeps_images(cluster: NativeCluster, clean_machine: Footprint):
    """The pod of the test before still runs, with a mount, and ignores SIGTERM."""
    assert footprint(NAME) != clean_machine
    cluster.down()
    assert footprint(NAME) == clean_machine
    assert not cluster.status().components
    assert [path.name for path in cluster.paths.state.iterdir()] == ["containerd"]
    cluster.down()


def test_up_after_down_is_a_new_cluster_with_the_old_images(cluster: NativeCluster):
    cluster.up()
    assert cluster.kubectl("get", "pods", "--output=name") == ""
    assert any("python-base" in name for name in cluster.ctr.image_ids())
    assert cluster.ctr.containers("default", "stubborn") == []


@pytest.mark.parametrize("component", ["anchor", "kubelet"])
def test_an_up_that_was_killed_half_way_is_recovered(cluster: NativeCluster, clean_machine: Footprint, component: str):
    cluster.down()
    record = cluster.paths.records / f"{component}.json"
    with subprocess.Popen(
        [sys.executable, "-m", "halcyon_devcluster", "up", "--name", NAME], stderr=subprocess.DEVNULL
    ) as up:
        wait_until(record.exists, f"{component} is started")
        up.kill()
    assert not cluster.status().ready
    if component == "anchor":
        cluster.down()
        assert footprint(NAME) == clean_machine
    cluster.up()
    assert cluster.status().ready


def test_a_process_that_joins_late_is_ended_with_the_group(clean_machine: Footprint):
    """Its parent was killed before the process had joined the cgroup, so the `kill` of the group did not reach it."""
    group = ControlGroup(f"{NAME}-late")
    group.create()
    group.kill()
    with subprocess.Popen(["sh", "-c", 'echo $$ > "$0" && exec sleep 600', str(group.members_file)]) as late:
        try:
            wait_until(lambda: group.pids() == [late.pid], "the process has joined")
            group.remove()
        finally:
            late.kill()
    assert not group.exists()


@pytest.mark.parametrize("component", ["containerd", "anchor"])
def test_down_after_a_crash_leaves_nothing_behind(cluster: NativeCluster, clean_machine: Footprint, component: str):
    cluster.up()
    os.kill(pid_of(cluster, component), signal.SIGKILL)
    cluster.down()
    assert footprint(NAME) == clean_machine


def test_processes_without_records_are_still_ended(cluster: NativeCluster, clean_machine: Footprint):
    """The cgroup knows its processes even if all records of them are deleted."""
    cluster.up()
    for path in cluster.paths.records.iterdir():
        path.unlink()
    cluster.down()
    assert footprint(NAME) == clean_machine


def test_purge_removes_the_images_too(cluster: NativeCluster):
    cluster.down(purge=True)
    assert not cluster.paths.state.exists()


def test_two_ups_at_once_make_one_cluster(cluster: NativeCluster):
    command = [sys.executable, "-m", "halcyon_devcluster", "up", "--name", NAME]
    ups = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [up.communicate(timeout=limit(300))[1] for up in ups]
    assert [up.returncode for up in ups] == [0, 0], outputs
    assert sum("is up already" in text for text in outputs) == 1
    assert sum("waiting for process" in text for text in outputs) == 1


def test_only_a_known_component_can_be_stopped(cluster: NativeCluster):
    with pytest.raises(DevclusterError, match="no component 'dns'"):
        cluster.stop_component("dns")
