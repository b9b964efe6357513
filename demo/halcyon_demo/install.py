"""What must be in a cluster before a TrainingRun can be: images, an object store, the operator with its chart.

Each function leaves alone what is there already, so calling one again is quick. The namespaces are those of `examples/`, or others.
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
from halcyon_devcluster.progress import Progress

RELEASE = "halcyon"
STORE = "object-store"
_READY_SECONDS = 120


@dataclass(frozen=True)
class Place:
    """Where things go in a cluster; by default where the examples say.

    Attributes:
        runs: Namespace of the runs and of the object store.
        operator: Namespace of the operator.
    """

    runs: str = "training"
    operator: str = "halcyon-system"

    @property
    def store_endpoint(self) -> str:
        """Address of the object store."""
        return f"http://{STORE}.{self.runs}.svc.cluster.local:7070"


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
    wanted = (Buildable.OPERATOR, Buildable.TRAINER, Buildable.VERSITYGW)
    built = [build(what, cache=cluster.paths.cache, progress=progress) for what in wanted]
    return Images(*(cluster.load(name) for name in built))


def moved(documents: Sequence[dict[str, Any]], place: Place) -> list[dict[str, Any]]:
    """Return documents of the examples as they must be in other namespaces, with the store's address there. Pure."""
    names = {Place().runs: place.runs, Place().operator: place.operator}
    changed = copy.deepcopy(list(documents))
    for document in changed:
        metadata = document["metadata"]
        key = "name" if document["kind"] == "Namespace" else "namespace"
        if key in metadata:
            metadata[key] = names.get(metadata[key], metadata[key])
        checkpoint = document["spec"]["checkpoint"] if document["kind"] == "TrainingRun" else {}
        if urlsplit(checkpoint.get("endpoint")).netloc == urlsplit(Place().store_endpoint).netloc:
            checkpoint["endpoint"] = place.store_endpoint
    return changed


def with_image(documents: Sequence[dict[str, Any]], image: str) -> list[dict[str, Any]]:
    """Return manifests with another image in their Deployments, never pulled where it is there. Pure."""
    changed = copy.deepcopy(list(documents))
    for document in changed:
        if document["kind"] == "Deployment":
            (container,) = document["spec"]["template"]["spec"]["containers"]
            container |= {"image": image, "imagePullPolicy": "IfNotPresent"}
    return changed


def install_object_store(cluster: Cluster, image: str, place: Place = Place()) -> None:
    """Apply `examples/object-store/` with the local gateway image, and return when the store answers."""
    for path in sorted((EXAMPLES / STORE).glob("*.yaml")):
        cluster.kubectl.apply(moved(with_image(load(path), image), place))
    cluster.kubectl("rollout", "status", f"deployment/{STORE}", "--namespace", place.runs, f"--timeout={limit(_READY_SECONDS)}s")


def chart_values(images: Images, place: Place = Place(), **more: Any) -> dict[str, Any]:
    """Return the values with which the demo installs the chart; more of them by keyword. Pure."""
    operator, trainer = (image.rpartition(":") for image in (images.operator, images.trainer))
    return {
        "image": {"repository": operator[0], "tag": operator[2]},
        "trainerImage": {"repository": trainer[0], "tag": trainer[2]},
        "watchNamespaces": [place.runs],
        "podMemory": {"cpu": "3Gi"},  # several runs share the one node
        "objectStore": {"s3": {"credentialsSecret": STORE, "endpoints": [place.store_endpoint]}},
        **more,
    }


def install_operator(cluster: Cluster, values: dict[str, Any], place: Place = Place()) -> None:
    """Install the chart, or upgrade an installed one to these values, and return when the operator is ready.

    A definition of the resource that somebody applied by hand is taken over.
    """
    where = ["--namespace", place.operator, "--create-namespace"]
    chart = REPOSITORY / "charts" / "halcyon"
    taking = ["--take-ownership", "--server-side=true", "--force-conflicts"]
    waiting = ["--wait", "--timeout", f"{limit(_READY_SECONDS)}s"]
    helm(cluster, "upgrade", RELEASE, chart, "--install", *where, *taking, *waiting, "--values", "-", stdin=yaml.safe_dump(values))


def uninstall_operator(cluster: Cluster, place: Place = Place()) -> None:
    """Uninstall the chart; the resource's definition, and every TrainingRun with it, stays."""
    helm(cluster, "uninstall", RELEASE, "--namespace", place.operator, "--ignore-not-found", "--wait")


def helm(cluster: Cluster, *arguments: str | Path, stdin: str | None = None) -> str:
    """Run helm against the cluster and return its output. Its own files stay beside the cluster's state."""
    private = cluster.paths.state / "helm"
    environ = {f"HELM_{what}_HOME": str(private / what.lower()) for what in ("CACHE", "CONFIG", "DATA")}
    return run([cluster.paths.tools / "helm", *arguments, "--kubeconfig", cluster.kubeconfig], stdin=stdin, environ=environ)
