"""What else acts on pods in a cluster: policies that add containers or require labels, quotas, limit ranges, webhooks
that do not answer.

Each run ends, or its conditions have the cause. The objects are in a namespace of their own, with an operator of its
own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import yaml

from halcyon_devcluster import DevclusterError
from halcyon_devcluster.waiting import until
from tests.cluster.conftest import DevCluster
from tests.cluster.scripted import INTERVAL_SECONDS, Runs, counts, installed, made_namespace, named
from tests.cluster.workloads import CONTAINER_SECURITY, POD_SECURITY, pod

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

ADMISSION = "admissionregistration.k8s.io/v1"
PODS = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}


@pytest.fixture(scope="module")
def place(devcluster: DevCluster, python_image: str) -> Iterator[Runs]:
    """A namespace whose pods no other test makes. Runs may set the label `team`."""
    allowed = {"trainerPods": {"runLabels": ["team"]}}
    with made_namespace(devcluster, "others") as namespace, installed(devcluster, python_image, namespace, **allowed):
        yield Runs(devcluster, namespace)


@pytest.fixture
def run(place: Runs, request: pytest.FixtureRequest) -> Iterator[str]:
    name = named(request.node.name)
    yield name
    place.delete(name)
    until(
        lambda: place.names("jobset,pod", name) == [],
        timeout_seconds=60,
        interval_seconds=INTERVAL_SECONDS,
        failure=lambda: str(place.names("jobset,pod", name)),
    )


@contextmanager
def there(place: Runs, effect: str, *objects: dict[str, Any]) -> Iterator[None]:
    """Objects that exist while the block runs. An API server loads policies and quotas about once a second.

    Args:
        place: The namespace.
        effect: A text in the API server's answer to a new pod, from which the objects are in force.
        objects: The objects.
    """
    kubectl = place.devcluster.kubectl
    container = {
        "name": "main",
        "image": "none",
        "securityContext": CONTAINER_SECURITY,
        "resources": {"limits": {"memory": "512Mi"}},
    }
    probe = yaml.safe_dump(pod("probe", {"securityContext": POD_SECURITY, "containers": [container]}))

    def answer() -> str:
        try:
            return place.kubectl("create", "--dry-run=server", "--filename=-", "--output=yaml", stdin=probe)
        except DevclusterError as refused:
            return str(refused)

    kubectl.apply(objects)
    try:
        until(lambda: effect in answer(), timeout_seconds=30, failure=lambda: f"not in force: {answer()}")
        yield
    finally:
        for found in objects:
            where = ["--namespace", found["metadata"]["namespace"]] if "namespace" in found["metadata"] else []
            kubectl("delete", found["kind"], found["metadata"]["name"], *where, "--ignore-not-found")
    until(lambda: effect not in answer(), timeout_seconds=30, failure=lambda: f"still in force: {answer()}")


def in_place(place: Runs) -> dict[str, Any]:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": place.namespace}}}


def policy(place: Runs, kind: str, **spec: Any) -> list[dict[str, Any]]:
    """An admission policy for the pods of the namespace, and its binding."""
    name = f"{place.namespace}-{kind.lower()}"
    rules = {"matchConstraints": {"resourceRules": [PODS]}, "failurePolicy": "Fail", **spec}
    bound: dict[str, Any] = {"policyName": name, "matchResources": in_place(place)}
    if kind.startswith("Validating"):
        bound["validationActions"] = ["Deny"]
    return [
        {"apiVersion": ADMISSION, "kind": kind, "metadata": {"name": name}, "spec": rules},
        {"apiVersion": ADMISSION, "kind": f"{kind}Binding", "metadata": {"name": name}, "spec": bound},
    ]


def adds_a_sidecar(place: Runs, image: str, native: bool) -> list[dict[str, Any]]:
    """A policy as of a service mesh: each pod gets a container that does not end by itself.

    Args:
        place: The namespace.
        image: An image with Python.
        native: As a container of `initContainers` that is restarted, which the kubelet ends after the others.
    """
    field, more = ("initContainers", ', restartPolicy: "Always"') if native else ("containers", "")
    rights = (
        f"Object.spec.{field}.securityContext{{allowPrivilegeEscalation: false, "
        f'capabilities: Object.spec.{field}.securityContext.capabilities{{drop: ["ALL"]}}}}'
    )
    assert CONTAINER_SECURITY == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    waits = '["python3", "-c", "import signal; signal.signal(signal.SIGTERM, lambda *_: exit()); signal.pause()"]'
    container = (
        f'Object.spec.{field}{{name: "mesh-proxy", image: "{image}", command: {waits}, securityContext: '
        f"{rights}{more}}}"
    )
    # The list is made empty and filled afterwards: a list of containers as a value ends the API server's request.
    empty = 'JSONPatch{op: "add", path: "/spec/initContainers", value: []}, ' if native else ""
    patch = f'[{empty}JSONPatch{{op: "add", path: "/spec/{field}/-", value: {container}}}]'
    mutation = {"patchType": "JSONPatch", "jsonPatch": {"expression": patch}}
    return policy(place, "MutatingAdmissionPolicy", reinvocationPolicy="Never", mutations=[mutation])


@pytest.mark.parametrize("native", [False, True], ids=["classic", "native"])
def test_a_run_beside_a_sidecar_succeeds_and_releases_its_pods(
    place: Runs, run: str, python_image: str, native: bool
) -> None:
    with there(place, "mesh-proxy", *adds_a_sidecar(place, python_image, native)):
        place.apply(run, "rate=20", trainer={"steps": 60, "batchSize": 8, "sequenceLength": 64})
        place.training(run)
        names = [
            [container["name"] for container in pod["spec"]["containers"] + pod["spec"].get("initContainers", [])]
            for pod in place.objects("pod", run)
        ]
        assert all("mesh-proxy" in found for found in names)
        status = place.in_phase(run, "Succeeded")
    assert status["progress"]["step"] == 60
    until(
        lambda: place.pods_at_work(run) == [],
        timeout_seconds=60,
        interval_seconds=INTERVAL_SECONDS,
        failure=lambda: f"the pods stay: {place.pods(run)}",
    )


@pytest.mark.parametrize("native", [False, True], ids=["classic", "native"])
def test_a_run_beside_a_sidecar_restarts_after_its_trainer_has_ended(
    place: Runs, run: str, python_image: str, native: bool
) -> None:
    with there(place, "mesh-proxy", *adds_a_sidecar(place, python_image, native)):
        place.apply(run, "exit=42,step=20,attempt=1,restart=0,process=0", "rate=20")
        status = place.training_after(run, 1, 0)
    assert status["restarts"]["total"] == sum(counts(status).values()) == 1
    assert place.condition(run, "Stalled")["status"] != "True"


def limits(place: Runs, kind: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": kind,
        "metadata": {"name": "limits", "namespace": place.namespace},
        "spec": spec,
    }


def silent_webhook(place: Runs) -> dict[str, Any]:
    """A webhook whose server does not run any more."""
    hook = {
        "name": "gone.example.com",
        "clientConfig": {"url": "https://127.0.0.1:9/pods"},
        "rules": [PODS],
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "timeoutSeconds": 2,
        **in_place(place),
    }
    return {
        "apiVersion": ADMISSION,
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": f"{place.namespace}-gone"},
        "webhooks": [hook],
    }


def needs_a_label(place: Runs) -> list[dict[str, Any]]:
    rule = {"expression": "'team' in object.metadata.?labels.orValue({})", "message": "every pod needs the label team"}
    return policy(place, "ValidatingAdmissionPolicy", validations=[rule])


REFUSALS = {
    "quota": (lambda place: [limits(place, "ResourceQuota", hard={"pods": "0"})], "exceeded quota: limits"),
    "limit-range": (
        lambda place: [limits(place, "LimitRange", limits=[{"type": "Container", "max": {"memory": "128Mi"}}])],
        "maximum memory usage per Container is 128Mi",
    ),
    "webhook": (lambda place: [silent_webhook(place)], "failed calling webhook"),
    "label": (needs_a_label, "every pod needs the label team"),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_a_run_whose_pods_are_refused_says_why_and_goes_on_when_they_are_not(place: Runs, run: str, what: str) -> None:
    objects, text = REFUSALS[what]
    with there(place, text, *objects(place)):
        place.apply(run)

        def says(_: dict[str, Any]) -> bool:
            ready, degraded = (place.condition(run, kind) for kind in ("Ready", "Degraded"))
            return (
                ready.get("reason") == "PodsRefused" and text in ready["message"] and degraded.get("status") == "True"
            )

        place.wait(run, f"refused by {text!r}", says)
    place.training(run)
    assert place.condition(run, "Degraded").get("status") != "True"


def test_a_run_gives_its_pods_the_label_that_the_cluster_requires(place: Runs, run: str) -> None:
    with there(place, "every pod needs the label team", *needs_a_label(place)):
        place.apply(run, scheduling={"labels": {"team": "language"}})
        place.training(run)
    assert {pod["metadata"]["labels"]["team"] for pod in place.objects("pod", run)} == {"language"}
