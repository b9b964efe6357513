"""Runs in the queues of the real Kueue, from its own chart: they wait and say for what, lose their quota, and go on without a lost step.

Kueue stands in the cluster for these tests alone. The queue is that of the guide, with memory of processors' hosts in place of GPUs.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from halcyon_demo.comparison import Loss, compare, losses
from halcyon_demo.documents import variant
from halcyon_devcluster.kueue import GROUP, kueue
from halcyon_devcluster.waiting import until
from tests.cluster.conftest import PROGRESS
from tests.cluster.scripted import Runs, build_scripted_trainer
from tests.cluster.whole_path import STEPS, WholePath
from tests.examples.documents import shown_documents

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

GUIDE = "docs/guides/queues.md"
MEMORY_GIB = 1
"""Of each of a run's two hosts; the quota is that of one run."""


def queue_objects(namespace: str) -> list[dict[str, Any]]:
    """The objects of the guide, for the namespace and for hosts without accelerators."""
    shown = [copy.deepcopy(found) for where, found in shown_documents() if where.startswith(GUIDE) and "apiVersion" in found]
    objects = [found for found in shown if found["apiVersion"].startswith(GROUP)]
    assert [found["kind"] for found in objects] == ["ResourceFlavor", "ClusterQueue", "LocalQueue", "WorkloadPriorityClass"]
    flavor, cluster_queue, local_queue, _ = objects
    flavor["spec"].pop("nodeLabels")
    (group,) = cluster_queue["spec"]["resourceGroups"]
    group["coveredResources"] = ["memory"]
    group["flavors"][0]["resources"] = [{"name": "memory", "nominalQuota": f"{2 * MEMORY_GIB}Gi"}]
    local_queue["metadata"]["namespace"] = namespace
    return objects


@pytest.fixture(scope="module")
def runs(path: WholePath, python_image: str) -> Runs:
    return Runs(path.devcluster, path.place.runs)


@pytest.fixture(scope="module")
def scripted(path: WholePath, python_image: str) -> str:
    """The image of trainers that play a script."""
    return build_scripted_trainer(path.devcluster, python_image)


def hosts() -> dict[str, Any]:
    return {"type": "cpu", "slices": 2, "hostResources": {"memory": f"{MEMORY_GIB}Gi"}}


def queued(name: str = "research", **queue: Any) -> dict[str, Any]:
    return {"queue": {"name": name, **queue}}


def apply(runs: Runs, name: str, image: str, **spec: Any) -> None:
    runs.apply(name, **{"accelerator": hosts(), "image": image, "imagePullPolicy": "Never", "scheduling": queued(), **spec})


def delete(runs: Runs, *names: str) -> None:
    runs.kubectl("delete", "trainingrun", *names, "--ignore-not-found", "--timeout=60s")


def waits(runs: Runs, name: str, reason: str, told: str) -> dict[str, Any]:
    """Wait until a run says that it waits in a queue, for a reason and in words; nothing of it runs."""

    def holds(status: dict[str, Any]) -> bool:
        found = next((one for one in status.get("conditions", []) if one["type"] == "Queued"), {})
        return (found.get("status"), found.get("reason")) == ("True", reason) and told in found["message"]

    status = runs.wait(name, f"waiting by {reason} for {told!r}", holds)
    assert runs.pods(name) == []
    return status


def test_without_kueue_a_run_of_a_queue_does_not_train_and_says_why(runs: Runs, scripted: str) -> None:
    apply(runs, "early", scripted)
    status = waits(runs, "early", "KueueMissing", "install Kueue, or leave scheduling.queue out")
    assert status["phase"] == "Queued"
    runs.stalled("early", "KueueMissing")
    assert runs.kubectl("get", "jobset", "early-1", "--output=jsonpath={.spec.suspend}") == "true"
    delete(runs, "early")


@pytest.fixture(scope="module")
def queues(path: WholePath, runs: Runs) -> Iterator[None]:
    """Kueue at work, with the queue of the guide; everything of it goes, for its webhooks stand before every JobSet."""
    kubectl = path.devcluster.kubectl
    ready = {"timeout": "40s", "blockAdmission": False, "requeuingStrategy": {"backoffBaseSeconds": 600}}
    with kueue(path.devcluster.cluster, PROGRESS, waitForPodsReady=ready):
        kubectl.apply(queue_objects(runs.namespace))
        try:
            yield
        finally:
            delete(runs, "--all")
    left = kubectl("get", "mutatingwebhookconfigurations,validatingwebhookconfigurations,customresourcedefinitions", "--output=name")
    assert "kueue" not in left


@pytest.fixture
def room(queues: None, runs: Runs) -> Iterator[None]:
    """All of the quota, and nothing of a test that failed in it afterwards."""
    yield
    delete(runs, "--all")


def test_a_run_waits_for_quota_and_says_so(room: None, runs: Runs, scripted: str) -> None:
    apply(runs, "first", scripted)
    runs.training("first")
    apply(runs, "second", scripted)
    status = waits(runs, "second", "WaitingForQuota", "insufficient unused quota for memory in flavor h100")
    since = status["queue"]["waitingSince"]
    message = runs.condition("second", "Queued")["message"]
    assert message.startswith(f"waiting in queue research since {since}: ")
    assert runs.kubectl("get", "trainingrun", "second", "--no-headers").split()[1] == "Queued"
    apply(runs, "nowhere", scripted, scheduling=queued("nobodys"))
    waits(runs, "nowhere", "QueueInadmissible", "LocalQueue nobodys doesn't exist; correct scheduling.queue.name")
    delete(runs, "nowhere", "first")
    status = runs.training("second")
    assert (status["attempt"], status["restarts"]["total"]) == (1, 0)
    assert "waitingSince" not in status["queue"]
    assert status["goodput"]["seconds"]["capacityWait"] >= 1
    told = runs.events("second")
    assert told.index("Queued") < told.index("Admitted")


def test_a_run_of_higher_priority_takes_the_quota_and_no_step_is_lost(
    room: None, path: WholePath, runs: Runs, scripted: str, undisturbed: list[Loss]
) -> None:
    document = variant(path.document, name="humble")
    document["spec"]["accelerator"]["hostResources"] = {"memory": f"{MEMORY_GIB}Gi"}
    document["spec"]["scheduling"] = queued()
    training = path.training_of(document)
    training.apply()
    training.wait_for_step(60)
    apply(runs, "hasty", scripted, scheduling=queued(priorityClass="urgent"))
    runs.training("hasty")
    waits(runs, "humble", "WaitingForQuota", "insufficient unused quota for memory in flavor h100")
    status = runs.wait("humble", "saved where it left", lambda now: now["checkpoint"]["step"] == now["history"][0]["toStep"])
    assert [entry.get("cause") for entry in status["history"]] == ["queueEvicted", None]
    assert f'halcyon_run_queued_timestamp_seconds{{namespace="{runs.namespace}",run="humble"}} ' in metrics_of(path)
    ended = status["history"][0]
    assert "queue research took its quota back, Preempted: Preempted to accommodate a workload" in ended["message"]
    assert ended["toStep"] >= 60
    assert {cause: count for cause, count in status["restarts"].items() if count} == {"total": 1, "queueEvicted": 1}
    assert "QueueEvicted" in runs.events("humble")
    delete(runs, "hasty")
    final, lines = path.finish(training)
    assert [entry.cause for entry in final.history] == ["queueEvicted", "completed"]
    assert final.history[1].from_step == ended["toStep"]
    comparison = compare(losses(lines, training.name), undisturbed, STEPS)
    assert (comparison.differences, comparison.repeated) == ((), 0)
    assert final.goodput is not None
    assert (final.goodput.lost_steps, final.failures_without_checkpoint) == (0, 0)
    assert final.goodput.seconds.capacity_wait >= 1
    assert f'halcyon_run_restarts_total{{cause="queueEvicted",namespace="{runs.namespace}",run="humble"}} 1.0' in metrics_of(path)


def metrics_of(path: WholePath) -> str:
    """What Prometheus would read from the operator."""
    selector = "--selector=app.kubernetes.io/name=halcyon"
    (pod,) = path.devcluster.kubectl("get", "pods", "--namespace", path.place.operator, selector, "--output=name").split()
    return path.devcluster.kubectl.pod_http(path.place.operator, pod.removeprefix("pod/"), 9401, "/metrics")


def test_an_admission_check_and_a_late_start_are_told(room: None, path: WholePath, runs: Runs, scripted: str) -> None:
    kubectl = path.devcluster.kubectl
    # A queue of its own whose runs need somebody's consent, as nodes of a ProvisioningRequest would be.
    check = {"apiVersion": f"{GROUP}/v1beta2", "kind": "AdmissionCheck", "metadata": {"name": "consent"}}
    check["spec"] = {"controllerName": "example.com/consent"}
    _, cluster_queue, local_queue, _ = queue_objects(runs.namespace)
    cluster_queue["metadata"]["name"] = local_queue["metadata"]["name"] = local_queue["spec"]["clusterQueue"] = "checked"
    cluster_queue["spec"]["admissionChecksStrategy"] = {"admissionChecks": [{"name": "consent"}]}
    kubectl.apply([check, cluster_queue, local_queue])
    active = {"type": "Active", "status": "True", "reason": "Active", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    patch(runs, "admissioncheck", "consent", {"status": {"conditions": [active]}})
    apply(runs, "checked", scripted, scheduling=queued("checked"))
    # Nobody can pull its image, so its pods never become ready, and Kueue gives its quota to others after a while.
    apply(runs, "late", "localhost/halcyon/nobody-has-this:1")
    waits(runs, "checked", "WaitingForAdmissionCheck", "quota is reserved in ClusterQueue checked; consent is Pending")
    granted = {"name": "consent", "state": "Ready", "message": "granted", "lastTransitionTime": "2026-01-01T00:00:00Z", "podSetUpdates": []}
    uid = runs.kubectl("get", "jobset", "checked-1", "--output=jsonpath={.metadata.uid}")
    name = runs.kubectl("get", "workloads", f"--selector=kueue.x-k8s.io/job-uid={uid}", "--output=name").strip().partition("/")[2]
    patch(runs, "workload", name, {"status": {"admissionChecks": [granted]}})
    runs.training("checked")
    delete(runs, "checked")
    status = waits(runs, "late", "WaitingToRequeue", "after PodsReadyTimeout")
    assert status["queue"]["eviction"]["reason"] == "PodsReadyTimeout"
    assert (status["attempt"], status["restarts"]["total"], status["failuresWithoutCheckpoint"]) == (1, 0, 0)


def patch(runs: Runs, kind: str, name: str, status: dict[str, Any]) -> None:
    """Write a status as a controller would; what it is about may be on its way yet."""
    until(
        lambda: runs.devcluster.kubectl.succeeds(
            "patch", kind, name, "--namespace", runs.namespace, "--subresource=status", "--type=merge", "--patch", yaml.safe_dump(status)
        ),
        timeout_seconds=30,
        failure=lambda: f"the status of {kind} {name} cannot be written",
    )
