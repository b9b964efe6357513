"""Training runs with a scripted trainer, and their operator, in a real cluster.

The scripted trainer keeps the whole contract and ends when and how a test asks. The reactions of a real trainer are
tested elsewhere.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from rich.console import Console

from halcyon_api.ends import BY_EXIT_CODE
from halcyon_api.generate.crd import definitions
from halcyon_demo.documents import REPOSITORY
from halcyon_demo.install import helm
from halcyon_devcluster import DevclusterError
from halcyon_devcluster.images import Buildable, build, build_image
from halcyon_devcluster.progress import ConsoleProgress
from halcyon_devcluster.waiting import until
from tests.cluster.api import Api, api_of, qualified
from tests.cluster.operators import NOWHERE
from tests.families import SMALL
from tests.suite.limits import limit

if TYPE_CHECKING:
    from tests.cluster.conftest import DevCluster

FOLDER = Path(__file__).parent / "scripted_trainer"
PROGRESS = ConsoleProgress(Console(stderr=True))
INTERVAL_SECONDS = 0.2
"""Between two polls of a wait."""


def build_scripted_trainer(devcluster: DevCluster, base_image: str) -> str:
    """The image of the scripted trainer, on the node."""
    arguments = {
        "BASE_IMAGE": base_image,
        "CAUSES": ",".join(f"{code}={cause}" for code, cause in BY_EXIT_CODE.items()),
    }
    digest = hashlib.sha256(
        b"".join(file.read_bytes() for file in sorted(FOLDER.iterdir())) + repr(arguments).encode()
    ).hexdigest()
    tag = f"localhost/halcyon/scripted-trainer:{digest[:16]}"
    cache = devcluster.cluster.paths.cache
    return devcluster.load(build_image(FOLDER / "Dockerfile", FOLDER, tag, arguments, cache=cache, progress=PROGRESS))


def document(name: str, *script: str, **spec: Any) -> dict[str, Any]:
    """A run of two slices with a script; other fields of its spec by keyword. Pure."""
    return {
        "apiVersion": "halcyon.dev/v1alpha1",
        "kind": "TrainingRun",
        "metadata": {"name": name},
        "spec": {
            # A script needs little memory, and the pods of many runs share one node.
            "accelerator": {"type": "cpu", "slices": 2, "hostResources": {"memory": "512Mi"}},
            "model": {**SMALL},
            "data": {
                "sources": [
                    {"name": "script", "text": {"paths": [f"script/{line}" for line in script or ("rate=10",)]}}
                ]
            },
            "trainer": {"steps": 100_000, "batchSize": 8, "sequenceLength": 64},
            # A store that the operator cannot reach, so that it uses the trainer's reports.
            "checkpoint": {"root": f"s3://nowhere/{name}", "endpoint": NOWHERE},
            # A script has no supervisor that starts it again in its pod.
            "recovery": {"maxRestarts": 2, "gracePeriodSeconds": 5, "inPlace": False},
            "telemetry": {"statusIntervalSeconds": 1},
            **spec,
        },
    }


def causes(status: dict[str, Any]) -> list[tuple[int, int, str]]:
    """Attempt, restart and cause of each entry of a run's history. Pure."""
    return [(entry["attempt"], entry["restart"], entry.get("cause", "")) for entry in status["history"]]


def counts(status: dict[str, Any], before: dict[str, Any] | None = None) -> dict[str, int]:
    """Number of restarts by cause, in total or since an earlier status. Pure."""
    earlier = {} if before is None else before["restarts"]
    added = {cause: count - earlier.get(cause, 0) for cause, count in status["restarts"].items() if cause != "total"}
    return {cause: count for cause, count in added.items() if count}


@dataclass(frozen=True)
class Runs:
    """Training runs in one namespace."""

    devcluster: DevCluster
    namespace: str

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self.devcluster.kubectl(*arguments, "--namespace", self.namespace, stdin=stdin)

    @property
    def api(self) -> Api:
        """The API server. Waits poll it."""
        return api_of(self.devcluster.kubeconfig.read_text())

    def apply(self, name: str, *script: str, **spec: Any) -> None:
        """Create or change a run of two slices with a script."""
        self.apply_all(document(name, *script, **spec))

    def apply_all(self, *documents: dict[str, Any]) -> None:
        """Apply several documents with one command."""
        self.kubectl("apply", "--filename=-", stdin=yaml.safe_dump_all(documents))

    def delete(self, *names: str) -> None:
        """Delete runs that are no longer needed, without waiting for the deletion."""
        for name in names:
            self.api.delete("trainingrun", self.namespace, name)

    def patch(self, name: str, **spec: Any) -> None:
        """Edit a run's spec."""
        self.kubectl("patch", "trainingrun", name, "--type=merge", "--patch", yaml.safe_dump({"spec": spec}))

    def get(self, name: str) -> dict[str, Any]:
        return self.api.get("trainingrun", self.namespace, name)

    def status(self, name: str) -> dict[str, Any]:
        return self.get(name).get("status", {})

    def condition(self, name: str, kind: str) -> dict[str, Any]:
        return next((found for found in self.status(name).get("conditions", []) if found["type"] == kind), {})

    def wait(self, name: str, what: str, holds: Any, seconds: float = 90) -> dict[str, Any]:
        """Wait until a condition holds for a run's status."""

        def now() -> bool:
            try:
                return bool(holds(self.status(name)))
            except DevclusterError:
                return False  # The API server may be down.

        until(
            now,
            timeout_seconds=seconds,
            interval_seconds=INTERVAL_SECONDS,
            failure=lambda: f"{name} is not {what}: {yaml.safe_dump(self.status(name))}{self.pods(name)}",
        )
        return self.status(name)

    def group(self, name: str) -> tuple[int, int]:
        """Attempt and restart of a run, once it is Running."""
        last = self.in_phase(name, "Running")["history"][-1]
        return last["attempt"], last["restart"]

    def training(self, name: str, attempt: int = 1, restart: int = 0, step: int = 1) -> dict[str, Any]:
        """Wait until a process group (attempt, restart) of a run trains."""

        def holds(status: dict[str, Any]) -> bool:
            last = (status.get("history") or [{}])[-1]
            return (
                status.get("phase") == "Running"
                and (last.get("attempt"), last.get("restart")) == (attempt, restart)
                and status.get("progress", {}).get("step", 0) >= step
            )

        return self.wait(name, f"training in attempt {attempt}, restart {restart}", holds)

    def training_after(self, name: str, attempt: int, restart: int) -> dict[str, Any]:
        """Wait until a later process group of a run trains."""

        def holds(status: dict[str, Any]) -> bool:
            last = (status.get("history") or [{}])[-1]
            later = (last.get("attempt", 0), last.get("restart", 0)) > (attempt, restart)
            return later and status.get("phase") == "Running" and status.get("progress", {}).get("step", 0) >= 1

        return self.wait(name, f"training after attempt {attempt}, restart {restart}", holds)

    def stalled(self, name: str, reason: str) -> dict[str, Any]:
        """Wait until a run has stopped for a reason."""

        def holds(status: dict[str, Any]) -> bool:
            return any(
                (c["type"], c["status"], c["reason"]) == ("Stalled", "True", reason)
                for c in status.get("conditions", [])
            )

        return self.wait(name, f"stalled by {reason}", holds)

    def in_phase(self, name: str, phase: str) -> dict[str, Any]:
        return self.wait(name, phase, lambda status: status.get("phase") == phase)

    def pods(self, name: str) -> list[str]:
        """Names of a run's pods, in the order of the slices."""
        return [pod["metadata"]["name"] for pod in self.objects("pod", name)]

    def pods_at_work(self, name: str) -> list[dict[str, Any]]:
        """Pods with the run's label that have not ended."""
        return [pod for pod in self.objects("pod", name) if pod["status"]["phase"] in ("Pending", "Running")]

    def objects(self, kind: str, name: str) -> list[dict[str, Any]]:
        """A run's objects of a kind."""
        return self.api.items(kind, self.namespace, f"halcyon.dev/run={name}")

    def names(self, kinds: str, name: str) -> list[str]:
        """Names of a run's objects of some kinds, as kubectl shows them."""
        return [
            qualified(kind, found["metadata"]["name"])
            for kind in kinds.split(",")
            for found in self.objects(kind, name)
        ]

    def restarts(self, jobset: str) -> int:
        """Number of restarts that JobSet has counted for a JobSet."""
        return self.api.get("jobset", self.namespace, jobset)["status"].get("restarts", 0)

    def events(self, name: str) -> list[str]:
        """Reasons of a run's events, sorted by time."""
        about = ({"kind": "TrainingRun", "name": name}).items()
        own = [event for event in self.api.items("event", self.namespace) if about <= event["regarding"].items()]
        return [event["reason"] for event in sorted(own, key=lambda event: event["eventTime"])]

    def wait_for_events(self, name: str, *reasons: str) -> list[str]:
        """The reasons of a run's events, once `reasons` are among them.

        An event is posted after the status that it is about.
        """
        until(
            lambda: set(reasons) <= set(self.events(name)),
            timeout_seconds=30,
            interval_seconds=INTERVAL_SECONDS,
            failure=lambda: f"{name}: {self.events(name)}",
        )
        return self.events(name)


@dataclass(frozen=True)
class Operator:
    """The operator as the chart installs it."""

    devcluster: DevCluster
    namespace: str

    @property
    def api(self) -> Api:
        """The API server. Waits poll it."""
        return api_of(self.devcluster.kubeconfig.read_text())

    @property
    def pod(self) -> str:
        (pod,) = self.api.items("pod", self.namespace, "app.kubernetes.io/name=halcyon")
        return pod["metadata"]["name"]

    @property
    def restarts(self) -> int:
        """Number of restarts of its container by the kubelet."""
        (container,) = self.api.get("pod", self.namespace, self.pod)["status"]["containerStatuses"]
        return container["restartCount"]

    def metrics(self) -> str:
        return self.api.text(f"/api/v1/namespaces/{self.namespace}/pods/{self.pod}:9401/proxy/metrics")

    def log(self) -> str:
        return self.api.text(f"/api/v1/namespaces/{self.namespace}/pods/{self.pod}/log")

    def scale(self, replicas: int) -> None:
        """Start or stop the operator, and wait until it is ready or deleted."""
        kubectl = self.devcluster.kubectl
        kubectl("scale", "deployment", "halcyon", "--namespace", self.namespace, f"--replicas={replicas}")
        if replicas:
            self.await_ready()
        else:
            gone = "--selector=app.kubernetes.io/name=halcyon"
            kubectl("wait", "--for=delete", "pod", gone, "--namespace", self.namespace, f"--timeout={limit(60)}s")

    def await_ready(self) -> None:
        kubectl = self.devcluster.kubectl
        kubectl("rollout", "status", "deployment", "halcyon", "--namespace", self.namespace, f"--timeout={limit(60)}s")


RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


@contextmanager
def made_namespace(devcluster: DevCluster, kind: str) -> Iterator[str]:
    """A namespace with the restricted pod profile. Deleted afterwards, without waiting for the deletion."""
    name = f"{kind}-{secrets.token_hex(4)}"
    devcluster.kubectl.apply(
        [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}}]
    )
    try:
        yield name
    finally:
        devcluster.kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found")


@contextmanager
def installed(devcluster: DevCluster, base_image: str, *served: str, **more: Any) -> Iterator[Operator]:
    """The operator from the chart, in its own namespace, with rights in the namespaces `served`; other chart values by
    keyword.
    """
    devcluster.kubectl.apply(definitions())
    operator = devcluster.load(
        build(Buildable.OPERATOR, cache=devcluster.cluster.paths.cache, progress=PROGRESS)
    ).rpartition(":")
    trainer = build_scripted_trainer(devcluster, base_image).rpartition(":")
    values = {
        "image": {"repository": operator[0], "tag": operator[2], "pullPolicy": "Never"},
        "trainerImage": {"repository": trainer[0], "tag": trainer[2]},
        "watchNamespaces": [*served],
        "podMemory": {"cpu": "512Mi"},  # many small pods share one node
        "watchNodes": True,
        "kueue": {"enabled": True, "priorityBoost": True, "multiKueue": True},
        "objectStore": {"s3": {"endpoints": [NOWHERE]}},
        "crds": {"enabled": False},
        "log": {"level": "info", "format": "text"},
        **more,
    }
    with made_namespace(devcluster, "operator") as namespace:
        command = ["install", "halcyon", REPOSITORY / "charts" / "halcyon", "--namespace", namespace, "--values", "-"]
        helm(devcluster.cluster, *command, "--wait", "--timeout", f"{limit(90)}s", stdin=yaml.safe_dump(values))
        yield Operator(devcluster, namespace)
        helm(devcluster.cluster, "uninstall", "halcyon", "--namespace", namespace)


@pytest.fixture(scope="session")
def served(devcluster: DevCluster, python_image: str) -> Iterator[tuple[Runs, Operator]]:
    """A namespace for runs and its operator, for all tests of a worker."""
    with made_namespace(devcluster, "runs") as namespace, installed(devcluster, python_image, namespace) as operator:
        yield Runs(devcluster, namespace), operator


@pytest.fixture(scope="session")
def runs(served: tuple[Runs, Operator]) -> Runs:
    """Runs in a namespace that the chart's operator serves."""
    return served[0]


@pytest.fixture(scope="session")
def operator(served: tuple[Runs, Operator]) -> Operator:
    """The operator of `runs`."""
    return served[1]


def named(node: str) -> str:
    """A new name for a run, derived from its test's name."""
    return re.sub(r"[^a-z]+", "-", node.removeprefix("test_"))[:24].strip("-") + f"-{secrets.token_hex(3)}"


@pytest.fixture
def name(runs: Runs, request: pytest.FixtureRequest) -> Iterator[str]:
    """A name for a run. The run and all its objects are deleted after the test."""
    name = named(request.node.name)
    yield name
    runs.delete(name)
