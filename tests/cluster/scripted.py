"""Training runs whose trainer plays a script, and the operator that looks after them, in a real cluster."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from halcyon_devcluster import DevclusterError
from halcyon_devcluster.images import build_image
from halcyon_devcluster.waiting import until
from tests.cluster.conftest import PROGRESS, DevCluster

FOLDER = Path(__file__).parent / "scripted_trainer"


def build_scripted_trainer(devcluster: DevCluster, base_image: str) -> str:
    """The image of the scripted trainer, on the node."""
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in sorted(FOLDER.iterdir())) + base_image.encode()).hexdigest()
    tag = f"localhost/halcyon/scripted-trainer:{digest[:16]}"
    cache = devcluster.cluster.paths.cache
    return devcluster.load(build_image(FOLDER / "Dockerfile", FOLDER, tag, {"BASE_IMAGE": base_image}, cache=cache, progress=PROGRESS))


@dataclass(frozen=True)
class Runs:
    """Training runs in one namespace."""

    devcluster: DevCluster
    namespace: str

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self.devcluster.kubectl(*arguments, "--namespace", self.namespace, stdin=stdin)

    def apply(self, name: str, *script: str, **spec: Any) -> None:
        """Make a run of two slices with a script, or change one."""
        document = {
            "apiVersion": "halcyon.dev/v1alpha1",
            "kind": "TrainingRun",
            "metadata": {"name": name},
            "spec": {
                "accelerator": {"type": "cpu", "slices": 2},
                "model": {"llama": {"layers": 2, "hiddenSize": 64, "intermediateSize": 128, "heads": 4}},
                "data": {"sources": [{"name": "script", "text": {"paths": [f"script/{line}" for line in script or ("rate=10",)]}}]},
                "trainer": {"steps": 100_000, "batchSize": 8, "sequenceLength": 64},
                # Out of the operator's reach, so that it goes by what the trainer tells.
                "checkpoint": {"root": f"s3://nowhere/{name}", "endpoint": "http://object-store.invalid:7070"},
                "recovery": {"maxRestarts": 2, "gracePeriodSeconds": 5},
                "telemetry": {"statusIntervalSeconds": 1},
                **spec,
            },
        }
        self.kubectl("apply", "--filename=-", stdin=yaml.safe_dump(document))

    def patch(self, name: str, **spec: Any) -> None:
        """Edit a run's spec."""
        self.kubectl("patch", "trainingrun", name, "--type=merge", "--patch", yaml.safe_dump({"spec": spec}))

    def get(self, name: str) -> dict[str, Any]:
        return self.devcluster.kubectl.json("get", "trainingrun", name, "--namespace", self.namespace)

    def status(self, name: str) -> dict[str, Any]:
        return self.get(name).get("status", {})

    def condition(self, name: str, kind: str) -> dict[str, Any]:
        return next((found for found in self.status(name).get("conditions", []) if found["type"] == kind), {})

    def wait(self, name: str, what: str, holds: Any, seconds: float = 90) -> dict[str, Any]:
        """Wait until something holds of a run's status."""

        def now() -> bool:
            try:
                return bool(holds(self.status(name)))
            except DevclusterError:
                return False  # The API server may be away.

        until(now, timeout_seconds=seconds, failure=lambda: f"{name} is not {what}: {yaml.safe_dump(self.status(name))}{self.pods(name)}")
        return self.status(name)

    def training(self, name: str, attempt: int = 1, restart: int = 0, step: int = 1) -> dict[str, Any]:
        """Wait until a world of a run trains."""

        def holds(status: dict[str, Any]) -> bool:
            last = (status.get("history") or [{}])[-1]
            return (
                status.get("phase") == "Running"
                and (last.get("attempt"), last.get("restart")) == (attempt, restart)
                and status.get("progress", {}).get("step", 0) >= step
            )

        return self.wait(name, f"training in attempt {attempt}, restart {restart}", holds)

    def stalled(self, name: str, reason: str) -> dict[str, Any]:
        """Wait until a run has stopped for a reason."""

        def holds(status: dict[str, Any]) -> bool:
            return any((c["type"], c["status"], c["reason"]) == ("Stalled", "True", reason) for c in status.get("conditions", []))

        return self.wait(name, f"stalled by {reason}", holds)

    def in_phase(self, name: str, phase: str) -> dict[str, Any]:
        return self.wait(name, phase, lambda status: status.get("phase") == phase)

    def pods(self, name: str) -> list[str]:
        """Names of a run's pods, slice by slice."""
        found = self.kubectl("get", "pods", f"--selector=halcyon.dev/run={name}", "--sort-by=.metadata.name", "--output=name")
        return [line.removeprefix("pod/") for line in found.split()]

    def pods_at_work(self, name: str) -> list[dict[str, Any]]:
        """Pods of every run of a name that have not ended."""
        found = self.devcluster.kubectl.json("get", "pods", "--namespace", self.namespace, f"--selector=halcyon.dev/run={name}")
        return [pod for pod in found["items"] if pod["status"]["phase"] in ("Pending", "Running")]

    def names(self, kind: str, name: str) -> list[str]:
        """Names of a run's objects of a kind."""
        return self.kubectl("get", kind, f"--selector=halcyon.dev/run={name}", "--output=name").split()

    def events(self, name: str) -> list[str]:
        """Reasons of the events of a run, in the order of their times."""
        document = self.devcluster.kubectl.json("get", "events.events.k8s.io", "--namespace", self.namespace)
        about = ({"kind": "TrainingRun", "name": name}).items()
        own = [event for event in document["items"] if about <= event["regarding"].items()]
        return [event["reason"] for event in sorted(own, key=lambda event: event["eventTime"])]

    def told(self, name: str, *reasons: str) -> list[str]:
        """The reasons of a run's events, once these are among them: an event is posted after the status that it is about."""
        until(lambda: set(reasons) <= set(self.events(name)), timeout_seconds=30, failure=lambda: f"{name}: {self.events(name)}")
        return self.events(name)


@dataclass(frozen=True)
class Operator:
    """The operator as the chart installs it."""

    devcluster: DevCluster
    namespace: str

    @property
    def pod(self) -> str:
        selector = "--selector=app.kubernetes.io/name=halcyon"
        found = self.devcluster.kubectl("get", "pods", "--namespace", self.namespace, selector, "--output=name").split()
        (pod,) = found
        return pod.removeprefix("pod/")

    def metrics(self) -> str:
        return self.devcluster.kubectl.pod_http(self.namespace, self.pod, 9401, "/metrics")

    def scale(self, replicas: int) -> None:
        """Start or stop the operator, and wait until that is done."""
        kubectl = self.devcluster.kubectl
        kubectl("scale", "deployment", "halcyon", "--namespace", self.namespace, f"--replicas={replicas}")
        if replicas:
            kubectl("rollout", "status", "deployment", "halcyon", "--namespace", self.namespace, "--timeout=60s")
        else:
            gone = "--selector=app.kubernetes.io/name=halcyon"
            kubectl("wait", "--for=delete", "pod", gone, "--namespace", self.namespace, "--timeout=60s")
