"""What must be in a cluster before a TrainingRun can be: images, an object store, the operator with its chart.

Each function leaves alone what is there already, so calling one again is quick.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from halcyon_demo.documents import EXAMPLES, REPOSITORY, load
from halcyon_devcluster import Cluster
from halcyon_devcluster.commands import run
from halcyon_devcluster.images import Buildable, build
from halcyon_devcluster.progress import Progress

RELEASE = "halcyon"
OPERATOR_NAMESPACE = "halcyon-system"
RUN_NAMESPACE = "training"
STORE_ENDPOINT = f"http://object-store.{RUN_NAMESPACE}.svc.cluster.local:7070"
_READY = "120s"


@dataclass(frozen=True)
class Images:
    """Full names of images that the cluster has.

    Attributes:
        operator: The operator.
        trainer: The trainer, with JAX for processors.
        store: The S3 gateway.
    """

    operator: str
    trainer: str
    store: str


def provide_images(cluster: Cluster, progress: Progress) -> Images:
    """Build the images of this checkout where their sources have changed, and load them onto the node where it lacks them."""
    built = [
        build(what, cache=cluster.paths.cache, progress=progress) for what in (Buildable.OPERATOR, Buildable.TRAINER, Buildable.VERSITYGW)
    ]
    return Images(*(cluster.load(name) for name in built))


def install_object_store(cluster: Cluster, image: str) -> None:
    """Apply `examples/object-store/` with the local gateway image, and return when the store answers."""
    for path in sorted((EXAMPLES / "object-store").glob("*.yaml")):
        cluster.kubectl.apply(with_image(load(path), image))
    cluster.kubectl("rollout", "status", "deployment/object-store", "--namespace", RUN_NAMESPACE, f"--timeout={_READY}")


def with_image(documents: Sequence[dict[str, Any]], image: str) -> list[dict[str, Any]]:
    """Return the manifests with another image in their Deployments, never pulled. Pure."""
    changed = copy.deepcopy(list(documents))
    for document in changed:
        if document["kind"] == "Deployment":
            (container,) = document["spec"]["template"]["spec"]["containers"]
            container |= {"image": image, "imagePullPolicy": "IfNotPresent"}
    return changed


def chart_values(images: Images, *, namespaces: Sequence[str] = (RUN_NAMESPACE,), **more: Any) -> dict[str, Any]:
    """Return the values with which the demo installs the chart; more of them by keyword. Pure."""
    operator, trainer = (image.rpartition(":") for image in (images.operator, images.trainer))
    return {
        "image": {"repository": operator[0], "tag": operator[2]},
        "trainerImage": {"repository": trainer[0], "tag": trainer[2]},
        "watchNamespaces": list(namespaces),
        "objectStore": {"s3": {"credentialsSecret": "object-store", "endpoints": [STORE_ENDPOINT]}},
        **more,
    }


def install_operator(cluster: Cluster, values: dict[str, Any], *, namespace: str = OPERATOR_NAMESPACE) -> None:
    """Install the chart, or upgrade an installed one to these values, and return when the operator is ready."""
    arguments = ["upgrade", RELEASE, REPOSITORY / "charts" / "halcyon", "--install", "--namespace", namespace, "--create-namespace"]
    helm(cluster, *arguments, "--wait", "--timeout", _READY, "--values", "-", stdin=yaml.safe_dump(values))


def uninstall_operator(cluster: Cluster, *, namespace: str = OPERATOR_NAMESPACE) -> None:
    """Uninstall the chart; the resource's definition, and every TrainingRun with it, stays."""
    helm(cluster, "uninstall", RELEASE, "--namespace", namespace, "--ignore-not-found", "--wait")


def helm(cluster: Cluster, *arguments: str | Path, stdin: str | None = None) -> str:
    """Run helm against the cluster and return its output. Its own files stay beside the cluster's state."""
    private = cluster.paths.state / "helm"
    environ = {f"HELM_{what}_HOME": str(private / what.lower()) for what in ("CACHE", "CONFIG", "DATA")}
    return run([cluster.paths.tools / "helm", *arguments, "--kubeconfig", cluster.kubeconfig], stdin=stdin, environ=environ)
