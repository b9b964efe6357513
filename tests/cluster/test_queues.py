"""Runs in queues of the real Kueue, from Kueue's own chart: they wait and report the reason, lose their quota, and
resume without a lost step.

Kueue is in the cluster only for these tests, because its webhooks check every JobSet. The queue is the guide's, with
host memory in place of GPUs.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import yaml

from halcyon_demo.comparison import Loss, compare, losses
from halcyon_demo.documents import variant
from halcyon_devcluster.kueue import GROUP, kueue
from halcyon_devcluster.waiting import until
from tests.cluster.conftest import PROGRESS, DevCluster
from tests.cluster.provisioning import (
    CHECK,
    CLASS,
    CONSUMES,
    DETAIL,
    KIND,
    NODE_LABEL,
    answer,
    provisioning_check,
    provisioning_requests,
)
from tests.cluster.scripted import Operator, Runs, build_scripted_trainer, causes, counts
from tests.cluster.whole_path import STEPS, WholePath
from tests.examples.documents import shown_documents
from tests.suite import promises
from tests.suite.limits import limit

pytestmark = [pytest.mark.cluster, pytest.mark.alone, pytest.mark.timeout(600)]

GUIDE = "docs/guides/queues.md"
MEMORY_GIB = 1
"""Memory of each host of a run of two hosts; a run of one host has twice as much. The quota is that of one run."""


def queue_objects(namespace: str) -> list[dict[str, Any]]:
    """The guide's objects, for this namespace and for hosts without accelerators."""
    shown = [
        copy.deepcopy(found) for where, found in shown_documents() if where.startswith(GUIDE) and "apiVersion" in found
    ]
    objects = [found for found in shown if found["apiVersion"].startswith(GROUP)]
    assert [found["kind"] for found in objects] == [
        "ResourceFlavor",
        "ClusterQueue",
        "LocalQueue",
        "WorkloadPriorityClass",
    ]
    flavor, cluster_queue, local_queue, _ = objects
    flavor["spec"].pop("nodeLabels")
    (group,) = cluster_queue["spec"]["resourceGroups"]
    group["coveredResources"] = ["memory", "cpu"]
    group["flavors"][0]["resources"] = [
        {"name": "memory", "nominalQuota": f"{2 * MEMORY_GIB}Gi"},
        {"name": "cpu", "nominalQuota": 1000},
    ]
    local_queue["metadata"]["namespace"] = namespace
    return objects


def hosts() -> dict[str, Any]:
    return {"type": "cpu", "slices": 2, "hostResources": {"memory": f"{MEMORY_GIB}Gi"}}


ONE_HOST = {"type": "cpu", "hostResources": {"memory": f"{2 * MEMORY_GIB}Gi"}}


def queued(name: str = "research", **queue: Any) -> dict[str, Any]:
    return {"queue": {"name": name, **queue}}


def apply(runs: Runs, name: str, *script: str, **spec: Any) -> None:
    runs.apply(name, *script, **{"accelerator": ONE_HOST, "scheduling": queued(), **spec})


def delete(runs: Runs, *names: str) -> None:
    runs.kubectl("delete", "trainingrun", *names, "--ignore-not-found", f"--timeout={limit(60)}s")


def waits(runs: Runs, name: str, reason: str, text: str) -> dict[str, Any]:
    """Wait until a run reports that it waits in a queue, with this reason and this text in the message, and has no
    pods.
    """

    def holds(status: dict[str, Any]) -> bool:
        found = next((one for one in status.get("conditions", []) if one["type"] == "Queued"), {})
        return (found.get("status"), found.get("reason")) == ("True", reason) and text in found["message"]

    status = runs.wait(name, f"waiting by {reason} for {text!r}", holds)
    # Kueue takes the quota back before the last pod is gone.
    until(
        lambda: runs.pods(name) == [], timeout_seconds=60, failure=lambda: f"{name} still has pods: {runs.pods(name)}"
    )
    return status


def test_without_kueue_a_queued_run_does_not_train_and_reports_why(runs: Runs) -> None:
    apply(runs, "early")
    status = waits(runs, "early", "KueueMissing", "install Kueue, or leave scheduling.queue out")
    assert status["phase"] == "Queued"
    runs.stalled("early", "KueueMissing")
    assert runs.kubectl("get", "jobset", "early-1", "--output=jsonpath={.spec.suspend}") == "true"
    delete(runs, "early")


@pytest.fixture(scope="module")
def queues(devcluster: DevCluster, runs: Runs) -> Iterator[None]:
    """Kueue with the guide's queue. Afterwards nothing of Kueue may be left."""
    kubectl = devcluster.kubectl
    ready = {"timeout": "40s", "blockAdmission": False, "requeuingStrategy": {"backoffBaseSeconds": 600}}
    with provisioning_requests(kubectl), kueue(devcluster.cluster, PROGRESS, waitForPodsReady=ready):
        kubectl.apply(queue_objects(runs.namespace))
        try:
            yield
        finally:
            delete(runs, "--all")
    left = kubectl(
        "get",
        "mutatingwebhookconfigurations,validatingwebhookconfigurations,customresourcedefinitions",
        "--output=name",
    )
    assert "kueue" not in left


@pytest.fixture
def room(queues: None, runs: Runs) -> Iterator[None]:
    """The whole quota. Afterwards all runs are deleted, those of a failed test too."""
    yield
    delete(runs, "--all")


@promises.QUEUE
def test_a_run_waits_for_quota_and_reports_it(room: None, runs: Runs) -> None:
    apply(runs, "first")
    runs.training("first")
    apply(runs, "second")
    status = waits(runs, "second", "WaitingForQuota", "insufficient unused quota for memory in flavor h100")
    since = status["queue"]["waitingSince"]
    message = runs.condition("second", "Queued")["message"]
    assert message.startswith(f"waiting in queue research since {since}: ")
    assert runs.kubectl("get", "trainingrun", "second", "--no-headers").split()[1] == "Queued"
    apply(runs, "nowhere", scheduling=queued("nobodys"))
    waits(runs, "nowhere", "QueueInadmissible", "LocalQueue nobodys doesn't exist; correct scheduling.queue.name")
    delete(runs, "nowhere", "first")
    status = runs.training("second")
    assert (status["attempt"], status["restarts"]["total"]) == (1, 0)
    assert "waitingSince" not in status["queue"]
    assert status["goodput"]["seconds"]["capacityWait"] >= 1
    reasons = runs.wait_for_events("second", "Queued", "Admitted")
    assert reasons.index("Queued") < reasons.index("Admitted")


@promises.QUEUE
def test_a_run_yields_its_quota_to_a_higher_priority_and_resumes_without_lost_steps(
    room: None, runs: Runs, operator: Operator
) -> None:
    apply(runs, "humble", "rate=10", "save=1000000")
    runs.training("humble")
    apply(runs, "hasty", scheduling=queued(priorityClass="urgent"))
    runs.training("hasty")
    waits(runs, "humble", "WaitingForQuota", "insufficient unused quota for memory in flavor h100")
    status = runs.wait(
        "humble", "saved where it left", lambda now: now["checkpoint"]["step"] == now["history"][0]["toStep"]
    )
    ended = status["history"][0]
    assert "queue research took its quota back, Preempted: Preempted to accommodate a workload" in ended["message"]
    assert counts(status) == {"queueEvicted": 1}
    assert f'halcyon_run_queued_timestamp_seconds{{namespace="{runs.namespace}",run="humble"}} ' in operator.metrics()
    runs.wait_for_events("humble", "QueueEvicted")
    delete(runs, "hasty")
    status = runs.training("humble", attempt=2)
    assert [cause for *_, cause in causes(status)] == ["queueEvicted", ""]
    assert status["history"][1]["fromStep"] == ended["toStep"] > 0
    assert (status["goodput"]["lostSteps"], status["failuresWithoutCheckpoint"]) == (0, 0)
    assert status["goodput"]["seconds"]["capacityWait"] >= 1
    assert (
        f'halcyon_run_restarts_total{{cause="queueEvicted",namespace="{runs.namespace}",run="humble"}} 1.0'
        in operator.metrics()
    )


@promises.QUEUE
@pytest.mark.variant
def test_a_run_that_gets_no_quota_takes_its_next_row_of_hardware(room: None, runs: Runs) -> None:
    other = {"accelerator": {"type": "cpu", "slices": 2}}
    apply(runs, "wide", accelerator=hosts() | {"slices": 4}, place={"otherwise": [other], "waitSeconds": 10})
    status = runs.training("wide", attempt=2)
    assert (status["topology"]["slices"], status["placement"]["row"]) == (2, 1)
    assert [cause for *_, cause in causes(status)] == ["moved", ""]
    assert (counts(status), status["failuresWithoutCheckpoint"]) == ({"moved": 1}, 0)
    runs.wait_for_events("wide", "Queued", "PlaceChanged", "Admitted")


@promises.QUEUE
@pytest.mark.variant
def test_the_run_that_would_train_longest_again_is_preempted_last(room: None, runs: Runs) -> None:
    """The younger of two runs would be preempted first, if its priority were not boosted."""
    half = {"type": "cpu", "hostResources": {"memory": f"{MEMORY_GIB}Gi"}}
    for name in ("older", "younger"):
        apply(runs, name, "rate=10", "save=1000000", accelerator=half)
        runs.training(name)
    boost = "kueue.x-k8s.io/priority-boost"
    workload = workload_of(runs, "younger")["metadata"]["name"]
    # The operator takes back what its clock does not say, at its next reading of the Workload.
    runs.kubectl("annotate", "workload", workload, f"{boost}=2")
    apply(runs, "hasty", accelerator=half, scheduling=queued(priorityClass="urgent"))
    runs.training("hasty")
    waits(runs, "older", "WaitingForQuota", "insufficient unused quota for memory in flavor h100")
    assert runs.status("younger")["attempt"] == 1
    until(
        lambda: workload_of(runs, "younger")["metadata"]["annotations"][boost] == "0",
        timeout_seconds=120,
        interval_seconds=0.5,
        failure=lambda: "the operator does not write the boost",
    )


@pytest.fixture(scope="module")
def scripted(devcluster: DevCluster, python_image: str) -> str:
    """The image of the scripted trainer."""
    return build_scripted_trainer(devcluster, python_image)


@pytest.fixture
def with_real_trainers(room: None, path: WholePath) -> Iterator[Runs]:
    """Runs in the same queue, with real trainers."""
    runs = Runs(path.devcluster, path.place.runs)
    path.devcluster.kubectl.apply([found for found in queue_objects(runs.namespace) if found["kind"] == "LocalQueue"])
    yield runs
    delete(runs, "humble", "hasty")


@pytest.mark.variant
def test_a_run_of_higher_priority_takes_the_quota_and_no_step_is_lost(
    with_real_trainers: Runs, path: WholePath, scripted: str, undisturbed: list[Loss]
) -> None:
    """With real trainers: the losses are those of an undisturbed run."""
    runs = with_real_trainers
    document = variant(path.document, name="humble")
    document["spec"]["accelerator"]["hostResources"] = {"memory": f"{MEMORY_GIB}Gi"}
    document["spec"]["scheduling"] = queued()
    training = path.training_of(document)
    training.apply()
    training.wait_for_step(60)
    # The operator of this path allows the store of its runs and no other.
    store = path.document["spec"]["checkpoint"] | {"root": f"{path.document['spec']['checkpoint']['root']}-hasty"}
    apply(
        runs,
        "hasty",
        image=scripted,
        imagePullPolicy="Never",
        checkpoint=store,
        scheduling=queued(priorityClass="urgent"),
    )
    runs.training("hasty")
    waits(runs, "humble", "WaitingForQuota", "insufficient unused quota for memory in flavor h100")
    status = runs.wait(
        "humble", "saved where it left", lambda now: now["checkpoint"]["step"] == now["history"][0]["toStep"]
    )
    assert [entry.get("cause") for entry in status["history"]] == ["queueEvicted", None]
    assert f'halcyon_run_queued_timestamp_seconds{{namespace="{runs.namespace}",run="humble"}} ' in metrics_of(path)
    ended = status["history"][0]
    assert "queue research took its quota back, Preempted: Preempted to accommodate a workload" in ended["message"]
    assert ended["toStep"] >= 60
    assert {cause: count for cause, count in status["restarts"].items() if count} == {"total": 1, "queueEvicted": 1}
    runs.wait_for_events("humble", "QueueEvicted")
    delete(runs, "hasty")
    final, lines = path.finish(training)
    assert [entry.cause for entry in final.history] == ["queueEvicted", "completed"]
    assert final.history[1].from_step == ended["toStep"]
    comparison = compare(losses(lines, training.name), undisturbed, STEPS)
    assert (comparison.differences, comparison.repeated) == ((), 0)
    assert final.goodput is not None
    assert (final.goodput.lost_steps, final.failures_without_checkpoint) == (0, 0)
    assert final.goodput.seconds.capacity_wait >= 1
    assert (
        f'halcyon_run_restarts_total{{cause="queueEvicted",namespace="{runs.namespace}",run="humble"}} 1.0'
        in metrics_of(path)
    )


def metrics_of(path: WholePath) -> str:
    """The page of metrics that Prometheus would scrape from the operator."""
    selector = "--selector=app.kubernetes.io/name=halcyon"
    (pod,) = path.devcluster.kubectl(
        "get", "pods", "--namespace", path.place.operator, selector, "--output=name"
    ).split()
    return path.devcluster.kubectl.pod_http(path.place.operator, pod.removeprefix("pod/"), 9401, "/metrics")


@pytest.mark.variant
def test_an_admission_check_and_a_late_start_are_reported(room: None, runs: Runs) -> None:
    kubectl = runs.devcluster.kubectl
    # A queue with an admission check that the test must grant, like that of a ProvisioningRequest.
    check = {"apiVersion": f"{GROUP}/v1beta2", "kind": "AdmissionCheck", "metadata": {"name": "consent"}}
    check["spec"] = {"controllerName": "example.com/consent"}
    _, cluster_queue, local_queue, _ = queue_objects(runs.namespace)
    cluster_queue["metadata"]["name"] = local_queue["metadata"]["name"] = local_queue["spec"]["clusterQueue"] = (
        "checked"
    )
    cluster_queue["spec"]["admissionChecksStrategy"] = {"admissionChecks": [{"name": "consent"}]}
    kubectl.apply([check, cluster_queue, local_queue])
    active = {
        "type": "Active",
        "status": "True",
        "reason": "Active",
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    patch(runs, "admissioncheck", "consent", {"status": {"conditions": [active]}})
    apply(runs, "checked", scheduling=queued("checked"))
    # Its image does not exist, so its pods never become ready, and Kueue takes its quota back after a while.
    apply(runs, "late", image="localhost/halcyon/nobody-has-this:1", imagePullPolicy="Never")
    waits(runs, "checked", "WaitingForAdmissionCheck", "quota is reserved in ClusterQueue checked; consent is Pending")
    granted = {
        "name": "consent",
        "state": "Ready",
        "message": "granted",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
        "podSetUpdates": [],
    }
    uid = runs.kubectl("get", "jobset", "checked-1", "--output=jsonpath={.metadata.uid}")
    name = (
        runs.kubectl("get", "workloads", f"--selector=kueue.x-k8s.io/job-uid={uid}", "--output=name")
        .strip()
        .partition("/")[2]
    )
    patch(runs, "workload", name, {"status": {"admissionChecks": [granted]}})
    runs.training("checked")
    delete(runs, "checked")
    status = waits(runs, "late", "WaitingToRequeue", "after PodsReadyTimeout")
    assert status["queue"]["eviction"]["reason"] == "PodsReadyTimeout"
    assert (status["attempt"], status["restarts"]["total"], status["failuresWithoutCheckpoint"]) == (1, 0, 0)


RACK, POOL, HOST = "example.com/rack", "example.com/pool", "kubernetes.io/hostname"


@contextmanager
def labelled(runs: Runs, **labels: str) -> Iterator[str]:
    """The node with labels. Yields its hostname label, by which Kueue names it."""
    kubectl = runs.devcluster.kubectl
    (node,) = kubectl.json("get", "nodes")["items"]
    name = node["metadata"]["name"]
    kubectl("label", "node", name, "--overwrite", *(f"{key}={value}" for key, value in labels.items()))
    try:
        yield node["metadata"]["labels"][HOST]
    finally:
        kubectl("label", "node", name, *(f"{key}-" for key in labels))


def queue_named(runs: Runs, name: str, flavor: str = "h100", memory: str = "1000Ti") -> list[dict[str, Any]]:
    """A separate queue with more quota than any test needs."""
    _, cluster_queue, local_queue, _ = queue_objects(runs.namespace)
    cluster_queue["metadata"]["name"] = local_queue["metadata"]["name"] = local_queue["spec"]["clusterQueue"] = name
    (kind,) = cluster_queue["spec"]["resourceGroups"][0]["flavors"]
    kind["name"], kind["resources"][0]["nominalQuota"] = flavor, memory
    return [cluster_queue, local_queue]


def pod_specs(runs: Runs, name: str) -> list[dict[str, Any]]:
    return runs.objects("pod", name)


def workload_of(runs: Runs, name: str) -> dict[str, Any]:
    """Kueue's Workload of a run's first JobSet."""
    uid = runs.kubectl("get", "jobset", f"{name}-1", "--output=jsonpath={.metadata.uid}")
    found = runs.devcluster.kubectl.json(
        "get", "workloads", f"--selector=kueue.x-k8s.io/job-uid={uid}", "--namespace", runs.namespace
    )
    (workload,) = found["items"]
    return workload


@pytest.mark.variant
def test_pods_are_placed_by_the_topology_and_a_run_that_does_not_fit_reports_it(room: None, runs: Runs) -> None:
    kubectl = runs.devcluster.kubectl
    with labelled(runs, **{RACK: "a", POOL: "racks"}) as host:
        topology = {"apiVersion": f"{GROUP}/v1beta2", "kind": "Topology", "metadata": {"name": "racks"}}
        topology["spec"] = {"levels": [{"nodeLabel": RACK}, {"nodeLabel": HOST}]}
        flavor = queue_objects(runs.namespace)[0] | {"metadata": {"name": "racks"}}
        flavor["spec"] = {"nodeLabels": {POOL: "racks"}, "topologyName": "racks"}
        kubectl.apply([topology, flavor, *queue_named(runs, "close", "racks")])
        apply(runs, "near", accelerator=hosts(), scheduling=queued("close", topology={"required": RACK, "slice": HOST}))
        runs.training("near")
        workload = workload_of(runs, "near")
        (pods,) = workload["spec"]["podSets"]
        wanted = pods["topologyRequest"]
        assert (wanted["required"], wanted["podSetSliceRequiredTopology"], wanted["podSetSliceSize"]) == (RACK, HOST, 1)
        (placed,) = workload["status"]["admission"]["podSetAssignments"]
        assert placed["topologyAssignment"]["levels"] == [HOST]
        assert host in str(placed["topologyAssignment"])
        jobset = kubectl.json("get", "jobset", "near-1", "--namespace", runs.namespace)
        template = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
        assert template["schedulingGates"] == [{"name": "kueue.x-k8s.io/topology"}], (
            "Kueue holds the pods until it has placed them"
        )
        for pod in pod_specs(runs, "near"):
            assert {POOL: "racks", HOST: host}.items() <= pod["spec"]["nodeSelector"].items()
            assert "schedulingGates" not in pod["spec"]
        delete(runs, "near")
        # Two of these fit into the quota, but no rack has room for both.
        memory = int(kubectl.json("get", "nodes")["items"][0]["status"]["allocatable"]["memory"].removesuffix("Ki"))
        large = hosts() | {"hostResources": {"memory": f"{memory * 6 // 10}Ki"}}
        apply(runs, "wide", accelerator=large, scheduling=queued("close", topology={"required": RACK}))
        waits(runs, "wide", "WaitingForQuota", "allows to fit only 1 out of 2 pod(s)")
        delete(runs, "wide")


@pytest.mark.variant
def test_a_provisioning_request_adds_nodes_for_a_run(room: None, runs: Runs) -> None:
    kubectl = runs.devcluster.kubectl
    cluster_queue, local_queue = queue_named(runs, "bought")
    cluster_queue["spec"]["admissionChecksStrategy"] = {"admissionChecks": [{"name": CHECK}]}
    kubectl.apply([*provisioning_check(), cluster_queue, local_queue])
    apply(runs, "bought", accelerator=hosts(), scheduling=queued("bought", maxRunDurationSeconds=3600))
    waits(runs, "bought", "WaitingForAdmissionCheck", f"{CHECK} is Pending")
    request = request_for_nodes(runs)
    name, spec = request["metadata"]["name"], request["spec"]
    assert (spec["provisioningClassName"], spec["parameters"]["maxRunDurationSeconds"]) == (CLASS, "3600")
    (pods,) = spec["podSets"]
    assert pods["count"] == 2, "it must request all nodes of the run at once"
    # From here on the test plays the autoscaler.
    patch(runs, KIND, name, answer("Waiting for resources. ETA: 2030-01-01", Accepted=True, Provisioned=False))
    waits(runs, "bought", "WaitingForAdmissionCheck", "Waiting for resources. ETA: 2030-01-01")
    with labelled(runs, **{NODE_LABEL: "resize-7"}):
        made = answer("the nodes exist", Accepted=True, Provisioned=True)
        made["status"]["provisioningClassDetails"] = {DETAIL: "resize-7"}
        patch(runs, KIND, name, made)
        runs.training("bought")
        for pod in pod_specs(runs, "bought"):
            assert pod["spec"]["nodeSelector"][NODE_LABEL] == "resize-7"
            assert pod["metadata"]["annotations"][CONSUMES] == name
        # The time for which the nodes were requested is over.
        made["status"]["conditions"] += answer("its time is over", CapacityRevoked=True)["status"]["conditions"]
        patch(runs, KIND, name, made)
        runs.stalled("bought", "QueueDeactivated")
        # As its message says: suspend and resume the run to request new nodes.
        runs.patch("bought", suspend=True)
        runs.in_phase("bought", "Suspended")
        runs.patch("bought", suspend=False)
        waits(runs, "bought", "WaitingForAdmissionCheck", f"{CHECK} is Pending")
        assert request_for_nodes(runs, after=name)["spec"]["parameters"] == spec["parameters"]


def request_for_nodes(runs: Runs, after: str = "") -> dict[str, Any]:
    """Kueue's ProvisioningRequest, once it exists, other than the one named `after`."""

    def found() -> list[dict[str, Any]]:
        items = runs.devcluster.kubectl.json("get", KIND, "--namespace", runs.namespace)["items"]
        return [item for item in items if item["metadata"]["name"] != after]

    until(lambda: bool(found()), timeout_seconds=30, interval_seconds=0.5, failure=lambda: "Kueue asks for no nodes")
    (request,) = found()
    return request


def patch(runs: Runs, kind: str, name: str, status: dict[str, Any]) -> None:
    """Write a status as a controller would. Waits until the object exists."""
    until(
        lambda: runs.devcluster.kubectl.succeeds(
            "patch",
            kind,
            name,
            "--namespace",
            runs.namespace,
            "--subresource=status",
            "--type=merge",
            "--patch",
            yaml.safe_dump(status),
        ),
        timeout_seconds=30,
        interval_seconds=0.5,
        failure=lambda: f"the status of {kind} {name} cannot be written",
    )
