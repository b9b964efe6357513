"""Installs what a TrainingRun needs in a cluster: images, an object store, the operator with its chart.

Each function skips what is installed already, so a second call is quick. The namespaces are those of `examples/` by
default.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from halcyon_demo.documents import EXAMPLES, REPOSITORY, load
from halcyon_devcluster import Cluster
from halcyon_devcluster.commands import run
from halcyon_devcluster.images import Buildable, build
from halcyon_devcluster.machine import limit
from halcyon_devcluster.progress import ProgressView

RELEASE = "halcyon"
STORE = "object-store"
_READY_SECONDS = 120


@dataclass(frozen=True)
class Namespaces:
    """The namespaces that are used; by default those of the examples.

    Attributes:
        runs: Namespace of the runs and of the object store.
        operator: Namespace of the operator.
    """

    runs: str = "training"
    operator: str = "halcyon-system"

    @property
    def store_endpoint(self) -> str:
        """URL of the object store inside the cluster."""
        return f"http://{STORE}.{self.runs}.svc.cluster.local:7070"


@dataclass(frozen=True)
class Images:
    """Full names of images on the cluster's node.

    Attributes:
        operator: The operator.
        trainer: The trainer, with JAX for CPUs.
        store: The S3 gateway.
    """

    operator: str
    trainer: str
    store: str


def provide_images(cluster: Cluster, progress: ProgressView) -> Images:
    """Build the images of this checkout whose sources have changed, and load those that the node lacks."""
    wanted = (Buildable.OPERATOR, Buildable.TRAINER, Buildable.VERSITYGW)
    built = [build(what, cache=cluster.paths.cache, progress=progress) for what in wanted]
    return Images(*(cluster.load(name) for name in built))


def moved(documents: Sequence[dict[str, Any]], place: Namespaces) -> list[dict[str, Any]]:
    """Return copies of example documents for the namespaces of `place`, with the store's address there. Pure."""
    names = {Namespaces().runs: place.runs, Namespaces().operator: place.operator}
    changed = copy.deepcopy(list(documents))
    for document in changed:
        metadata = document["metadata"]
        key = "name" if document["kind"] == "Namespace" else "namespace"
        if key in metadata:
            metadata[key] = names.get(metadata[key], metadata[key])
        checkpoint = document["spec"]["checkpoint"] if document["kind"] == "TrainingRun" else {}
        if urlsplit(checkpoint.get("endpoint")).netloc == urlsplit(Namespaces().store_endpoint).netloc:
            checkpoint["endpoint"] = place.store_endpoint
    return changed


def with_image(documents: Sequence[dict[str, Any]], image: str) -> list[dict[str, Any]]:
    """Return manifests with another image in their Deployments, pulled only if the node lacks it. Pure."""
    changed = copy.deepcopy(list(documents))
    for document in changed:
        if document["kind"] == "Deployment":
            (container,) = document["spec"]["template"]["spec"]["containers"]
            container |= {"image": image, "imagePullPolicy": "IfNotPresent"}
    return changed


def install_object_store(cluster: Cluster, image: str, place: Namespaces = Namespaces()) -> None:
    """Apply `examples/object-store/` with the local gateway image, and wait until the store is ready."""
    for path in sorted((EXAMPLES / STORE).glob("*.yaml")):
        cluster.kubectl.apply(moved(with_image(load(path), image), place))
    cluster.kubectl(
        "rollout", "status", f"deployment/{STORE}", "--namespace", place.runs, f"--timeout={limit(_READY_SECONDS)}s"
    )


def chart_values(images: Images, place: Namespaces = Namespaces(), **more: Any) -> dict[str, Any]:
    """Return the values for the demo's installation of the chart; keywords add or replace values. Pure."""
    operator, trainer = (image.rpartition(":") for image in (images.operator, images.trainer))
    return {
        "image": {"repository": operator[0], "tag": operator[2]},
        "trainerImage": {"repository": trainer[0], "tag": trainer[2]},
        "watchNamespaces": [place.runs],
        "podMemory": {"cpu": "3Gi"},  # several runs share one node
        "objectStore": {"s3": {"credentialsSecret": STORE, "endpoints": [place.store_endpoint]}},
        **more,
    }


def install_operator(cluster: Cluster, values: dict[str, Any], place: Namespaces = Namespaces()) -> None:
    """Install the chart, or upgrade it to these values, and wait until the operator is ready.

    Takes over CRDs that were applied without Helm.
    """
    where = ["--namespace", place.operator, "--create-namespace"]
    chart = REPOSITORY / "charts" / "halcyon"
    taking = ["--take-ownership", "--server-side=true", "--force-conflicts"]
    waiting = ["--wait", "--timeout", f"{limit(_READY_SECONDS)}s"]
    helm(
        cluster,
        "upgrade",
        RELEASE,
        chart,
        "--install",
        *where,
        *taking,
        *waiting,
        "--values",
        "-",
        stdin=yaml.safe_dump(values),
    )


def uninstall_operator(cluster: Cluster, place: Namespaces = Namespaces()) -> None:
    """Uninstall the chart. The CRDs stay, and so do all TrainingRuns."""
    helm(cluster, "uninstall", RELEASE, "--namespace", place.operator, "--ignore-not-found", "--wait")


def helm(cluster: Cluster, *arguments: str | Path, stdin: str | None = None) -> str:
    """Run helm against the cluster and return its output. Helm keeps its own files in the cluster's state folder."""
    private = cluster.paths.state / "helm"
    environ = {f"HELM_{what}_HOME": str(private / what.lower()) for what in ("CACHE", "CONFIG", "DATA")}
    return run(
        [cluster.paths.tools / "helm", *arguments, "--kubeconfig", cluster.kubeconfig], stdin=stdin, environ=environ
    )
