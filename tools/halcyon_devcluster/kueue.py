"""Kueue from its own chart, installed only while a test needs it, because its webhooks intercept every JobSet.

`up` does not install it. Objects in its queues have finalizers that only its controller removes, so they must be
deleted as well.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import yaml

from halcyon_devcluster import own_images, programs
from halcyon_devcluster.addons import install_chart, probe_jobset
from halcyon_devcluster.binaries import Binaries
from halcyon_devcluster.cluster import Cluster
from halcyon_devcluster.commands import run
from halcyon_devcluster.kubectl import Kubectl
from halcyon_devcluster.machine import limit
from halcyon_devcluster.progress import ProgressView
from halcyon_devcluster.webhooks import WebhookController

KUEUE = WebhookController("Kueue", "kueue-system", "kueue-controller-manager", "kueue-webhook-server-cert")
RELEASE = "kueue"
GROUP = "kueue.x-k8s.io"
_APISERVICES = ("v1beta1.visibility.kueue.x-k8s.io", "v1beta2.visibility.kueue.x-k8s.io")


def kueue_values(image: str, **configuration: Any) -> dict[str, Any]:
    """Return the values for Kueue's chart; keywords add to Kueue's own configuration. Pure.

    Kueue manages only Jobs and JobSets, so that no webhook intercepts pods. It requests less than the default half
    core, which is a quarter of a small machine.
    """
    repository, _, tag = image.rpartition(":")
    document = {
        "apiVersion": "config.kueue.x-k8s.io/v1beta2",
        "kind": "Configuration",
        "health": {"healthProbeBindAddress": ":8081"},
        "metrics": {"bindAddress": ":8443"},
        "webhook": {"port": 9443},
        "leaderElection": {"leaderElect": False},
        "integrations": {"frameworks": ["batch/job", "jobset.x-k8s.io/jobset"]},
        **configuration,
    }
    probe = {"initialDelaySeconds": 1, "periodSeconds": 1}
    return {
        "controllerManager": {
            "featureGates": [
                {"name": "VisibilityOnDemand", "enabled": False},
                {"name": "PriorityBoost", "enabled": True},
            ],
            "manager": {
                "image": {"repository": repository, "tag": tag, "pullPolicy": "Never"},
                "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}, "limits": {"memory": "1Gi"}},
            },
            "readinessProbe": probe,
        },
        "managerConfig": {"controllerManagerConfigYaml": yaml.safe_dump(document, sort_keys=False)},
    }


def kueue_answers(kubectl: Kubectl) -> bool:
    """Whether a JobSet with a queue would now be accepted and suspended."""
    document = probe_jobset()
    document["metadata"]["labels"] = {f"{GROUP}/queue-name": "probe"}
    text = yaml.safe_dump(document)
    create = ("create", "--dry-run=server", "--filename=-", "--output=json")
    if not kubectl.succeeds(*create, stdin=text):
        return False
    return json.loads(kubectl(*create, stdin=text))["spec"].get("suspend") is True


@contextmanager
def kueue(cluster: Cluster, progress: ProgressView, **configuration: Any) -> Iterator[None]:
    """Install Kueue for the block, and remove all of it afterwards.

    Args:
        cluster: A cluster that is up.
        progress: Shows the progress.
        configuration: Fields of Kueue's own configuration, such as `waitForPodsReady`.
    """
    binaries = Binaries(cluster.paths.cache, progress)
    _, archive = own_images.make(own_images.KUEUE, binaries, cluster.paths.images)
    image = cluster.load(str(archive))
    chart = binaries.folder(programs.KUEUE) / "charts" / "kueue"
    with progress.step("Installing Kueue"):
        remove_kueue(cluster)  # a killed test may have left one
        _install(cluster, chart, kueue_values(image, **configuration))
    try:
        yield
    finally:
        with progress.step("Removing Kueue"):
            remove_kueue(cluster)


def _install(cluster: Cluster, chart: Any, values: Mapping[str, Any]) -> None:
    log = cluster.paths.logs / "kueue.log"
    install_chart(cluster.paths.tools / "helm", cluster.kubeconfig, RELEASE, KUEUE.namespace, chart, values, log)
    # This API is not served here, and an API that does not answer blocks the deletion of every namespace.
    cluster.kubectl("delete", "apiservice", *_APISERVICES, "--ignore-not-found")
    KUEUE.wait(cluster.kubectl, lambda: kueue_answers(cluster.kubectl))


def remove_kueue(cluster: Cluster) -> None:
    """Remove Kueue from the cluster, with everything in its queues; does nothing if it is not installed."""
    kubectl = cluster.kubectl
    selector = f"--selector=app.kubernetes.io/name={RELEASE}"
    hooks = ("mutatingwebhookconfigurations,validatingwebhookconfigurations", selector)
    kinds = kubectl("api-resources", f"--api-group={GROUP}", "--output=name", "--cached=false").split()
    if kinds:
        # First the webhooks and the controller, which would recreate objects; then the objects that its finalizers
        # hold.
        kubectl("delete", *hooks, "--ignore-not-found")
        kubectl(
            "delete",
            "deployment",
            KUEUE.deployment,
            "--namespace",
            KUEUE.namespace,
            "--ignore-not-found",
            f"--timeout={limit(60)}s",
        )
        for kind in sorted(kinds):
            _release(kubectl, kind)
    _uninstall(cluster)
    kubectl("delete", "namespace", KUEUE.namespace, "--ignore-not-found", f"--timeout={limit(60)}s")


def _release(kubectl: Kubectl, kind: str) -> None:
    """Delete every object of a kind, and remove their finalizers."""
    kubectl("delete", kind, "--all", "--all-namespaces", "--wait=false", "--ignore-not-found")
    for item in kubectl.json("get", kind, "--all-namespaces")["items"]:
        metadata = item["metadata"]
        where = ("--namespace", metadata["namespace"]) if "namespace" in metadata else ()
        patch = ("--type=merge", '--patch={"metadata":{"finalizers":null}}')
        kubectl.succeeds("patch", kind, metadata["name"], *where, *patch)  # may fail: the object may be deleted by now


def _uninstall(cluster: Cluster) -> None:
    private = cluster.paths.logs / "helm"
    environ = {f"HELM_{what}_HOME": str(private / what.lower()) for what in ("CACHE", "CONFIG", "DATA")}
    where = ["--kubeconfig", str(cluster.kubeconfig), "--namespace", KUEUE.namespace]
    log = cluster.paths.logs / "kueue.log"
    run(
        [cluster.paths.tools / "helm", "uninstall", RELEASE, *where, "--ignore-not-found", "--wait"],
        environ=environ,
        log=log,
    )
