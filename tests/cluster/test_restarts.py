"""The causes that restart a run, and how the operator reports them: each fault is real, and its cause is recognized.

Most tests use the same run, one fault after the other, so that its pods start only once.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import yaml

from halcyon_devcluster.waiting import until
from tests.cluster.scripted import INTERVAL_SECONDS, Operator, Runs, causes, counts
from tests.faults import rows
from tests.faults.table import Trials

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def troubled(runs: Runs) -> Iterator[str]:
    """A run that allows no failure."""
    name = f"troubled-{secrets.token_hex(3)}"
    runs.apply(name, "rate=20", "save=5", recovery={"maxRestarts": 0, "gracePeriodSeconds": 5})
    yield name
    runs.delete(name)


def test_an_eviction_counts_as_a_preemption_and_uses_no_budget(runs: Runs, troubled: str) -> None:
    attempt, restart = runs.group(troubled)
    before = runs.training(troubled, attempt, restart)
    alarms: list[dict[str, Any]] = []

    def trains_again(status: dict[str, Any]) -> bool:
        alarms.extend(
            one
            for one in status["conditions"]
            if (one["type"], one["status"]) == ("Degraded", "True") or one["reason"] == "PodsRefused"
        )
        return status["history"][-1]["restart"] == restart + 1 and status["phase"] == "Running"

    runs.devcluster.faults.evict(runs.namespace, runs.pods(troubled)[1])
    runs.wait(troubled, "training again", trains_again)
    assert alarms == [], "nothing refuses the pods of an ordinary restart"
    status = runs.training(troubled, attempt, restart + 1)
    assert causes(status)[-2:] == [(attempt, restart, "preempted"), (attempt, restart + 1, "")]
    assert (counts(status, before), status["failuresWithoutCheckpoint"]) == ({"preempted": 1}, 0)
    assert "EvictionByEvictionAPI" in status["history"][-2]["message"]
    runs.wait_for_events(troubled, "Preempted")


def test_a_deleted_pod_is_distinguished_from_an_eviction(runs: Runs, troubled: str) -> None:
    attempt, restart = runs.group(troubled)
    before = runs.training(troubled, attempt, restart)
    runs.kubectl("delete", "pod", runs.pods(troubled)[1], "--wait=false")
    status = runs.training(troubled, attempt, restart + 1)
    assert (causes(status)[-2], counts(status, before)) == ((attempt, restart, "podDeleted"), {"podDeleted": 1})


def test_a_deleted_config_map_is_created_again_for_the_next_restart(runs: Runs, troubled: str) -> None:
    attempt, restart = runs.group(troubled)
    runs.training(troubled, attempt, restart)
    (before,) = runs.objects("configmap", troubled)
    runs.kubectl("delete", "configmap", before["metadata"]["name"])
    runs.devcluster.faults.evict(runs.namespace, runs.pods(troubled)[1])
    runs.training(troubled, attempt, restart + 1)
    (after,) = runs.objects("configmap", troubled)
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    assert (after["data"], after["immutable"]) == (before["data"], True)
    runs.wait_for_events(troubled, "ConfigMapDeleted")


def test_a_deleted_jobset_is_made_again_under_the_next_number(runs: Runs, troubled: str) -> None:
    attempt, restart = runs.group(troubled)
    before = runs.training(troubled, attempt, restart, step=10)
    runs.kubectl("delete", "jobset", f"{troubled}-{attempt}", "--wait=false")
    status = runs.training(troubled, attempt + 1)
    assert (causes(status)[-2], counts(status, before)) == ((attempt, restart, "jobSetDeleted"), {"jobSetDeleted": 1})
    assert status["history"][-1]["fromStep"] >= before["checkpoint"]["step"] > 0, "it must resume from the checkpoint"
    assert runs.names("jobset", troubled) == [f"jobset.jobset.x-k8s.io/{troubled}-{attempt + 1}"]
    assert runs.names("configmap", troubled) == [f"configmap/{troubled}-{attempt + 1}"]


def test_a_killed_process_is_a_failure(runs: Runs, name: str) -> None:
    runs.apply(name, "rate=10", "save=0")
    runs.training(name)
    runs.devcluster.faults.kill_container(runs.namespace, runs.pods(name)[0])
    status = runs.training(name, restart=1)
    assert (causes(status)[0], counts(status), status["failuresWithoutCheckpoint"]) == (
        (1, 0, "failed"),
        {"failed": 1},
        1,
    )
    assert "exit code 137" in status["history"][0]["message"]


@contextmanager
def changed_pods(runs: Runs, name: str, patches: str) -> Iterator[None]:
    """An admission policy of the cluster changes each new pod of a run by JSON patches, in CEL."""
    policy = f"change-{name}"
    kinds = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    spec = {
        "failurePolicy": "Fail",
        "reinvocationPolicy": "Never",
        "matchConstraints": {"resourceRules": [kinds]},
        "matchConditions": [
            {"name": "run", "expression": f"object.metadata.?labels[?'halcyon.dev/run'].orValue('') == '{name}'"}
        ],
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": patches}}],
    }
    api = "admissionregistration.k8s.io/v1"
    rule = {"apiVersion": api, "kind": "MutatingAdmissionPolicy", "metadata": {"name": policy}, "spec": spec}
    binding = rule | {"kind": "MutatingAdmissionPolicyBinding", "spec": {"policyName": policy}}
    kubectl, documents = runs.devcluster.kubectl, yaml.safe_dump_all([rule, binding])
    kubectl("apply", "--filename=-", stdin=documents)

    trial = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "trial", "labels": {"halcyon.dev/run": name}},
        "spec": {"containers": [{"name": "trial", "image": "trial"}]},
    }

    def in_force() -> bool:
        options = ("--dry-run=server", "--validate=false", "--output=json", "--filename=-")
        made = json.loads(runs.devcluster.kubectl("create", *options, stdin=yaml.safe_dump(trial)))["spec"]
        return "nodeName" in made or "initContainers" in made

    try:
        until(in_force, timeout_seconds=30, interval_seconds=INTERVAL_SECONDS, failure=lambda: f"no {policy}")
        yield
    finally:
        kubectl("delete", "--filename=-", stdin=documents)


def test_pods_that_the_node_rejects_use_no_budget(runs: Runs, name: str) -> None:
    """A policy passes the scheduler by, so that the kubelet itself must see that the pods are not for its node."""
    (node,) = runs.devcluster.kubectl("get", "nodes", "--output=name").split()
    node, label = node.removeprefix("node/"), f"halcyon.test/{name}"
    bind = f'[JSONPatch{{op: "add", path: "/spec/nodeName", value: "{node}"}}]'
    with changed_pods(runs, name, bind):
        recovery = {"maxRestarts": 0, "gracePeriodSeconds": 5}
        runs.apply(name, "rate=20", recovery=recovery, scheduling={"nodeSelector": {label: "yes"}})

        def held_back(status: dict[str, Any]) -> bool:
            found = {one["type"]: one["reason"] for one in status.get("conditions", [])}
            return found.get("Degraded") == "PodsRejected"

        status = runs.wait(name, "held back", held_back, seconds=120)
        assert f"node {node} did not start pod {name}-" in str(status["history"][0]["message"])
        try:
            runs.devcluster.kubectl("label", "node", node, f"{label}=yes")
            status = runs.wait(name, "training", lambda status: status.get("phase") == "Running", seconds=150)
        finally:
            runs.devcluster.kubectl("label", "node", node, f"{label}-")
    assert {cause for *_, cause in causes(status)} <= {"rejected", "heldBack", "moved", ""}
    assert (status["failuresWithoutCheckpoint"], status["restarts"]["rejected"] > 0) == (0, True)


@pytest.mark.variant
def test_the_image_of_an_added_sidecar_that_cannot_be_pulled_is_named(runs: Runs, name: str) -> None:
    context = "Object.spec.initContainers.securityContext"
    sidecar = (
        'Object.spec.initContainers{name: "agent", image: "registry.invalid/agent:1", restartPolicy: "Always", '
        f"securityContext: {context}{{allowPrivilegeEscalation: false, "
        f'capabilities: {context}.capabilities{{drop: ["ALL"]}}}}}}'
    )
    places = ("/spec/initContainers", "[]"), ("/spec/initContainers/-", sidecar)
    patches = (f'JSONPatch{{op: "add", path: "{path}", value: {value}}}' for path, value in places)
    add = f"[{', '.join(patches)}]"
    with changed_pods(runs, name, add):
        runs.apply(name, "rate=20")
        runs.wait(name, "degraded", lambda _: runs.condition(name, "Degraded").get("reason") == "ImagePullFailed")
    assert "of init container agent" in runs.condition(name, "Ready")["message"]


@rows.CONTROL_PLANE
def test_restarts_while_the_operator_is_down_are_counted_afterwards(
    runs: Runs, operator: Operator, name: str, trials: Trials
) -> None:
    runs.apply(name, "rate=10", "save=0")
    runs.training(name)
    operator.scale(0)
    faults = runs.devcluster.faults

    def await_restart(number: int) -> None:
        def restarted() -> bool:
            phases = [pod["status"]["phase"] for pod in runs.objects("pod", name)]
            return runs.restarts(f"{name}-1") == number and phases == ["Running", "Running"]

        until(restarted, timeout_seconds=60, interval_seconds=INTERVAL_SECONDS, failure=lambda: str(runs.pods(name)))

    faults.kill_container(runs.namespace, runs.pods(name)[0])
    await_restart(1)
    faults.evict(runs.namespace, runs.pods(name)[1])
    await_restart(2)
    operator.scale(1)
    status = runs.training(name, restart=2)
    assert (status["attempt"], counts(status)) == (1, {"failed": 1, "preempted": 1})
    assert len(runs.names("jobset", name)) == 1
    trials.count("restarts without an operator", 2)


@pytest.mark.parametrize("cascade", ["foreground", pytest.param("background", marks=pytest.mark.variant)])
def test_a_recreated_run_waits_for_the_pods_of_the_old_run(runs: Runs, name: str, cascade: str) -> None:
    """The old run is deleted without its JobSet, whose pods train on.

    The new run starts only after these pods have saved and ended.
    """
    runs.apply(name, "rate=20", "save=5")
    runs.training(name)
    pods = runs.names("pod", name)
    runs.kubectl("delete", "trainingrun", name, "--cascade=orphan")
    runs.apply(name, "rate=20", "save=5")
    assert runs.stalled(name, "NameTaken")["attempt"] == 0
    message = runs.condition(name, "Stalled")["message"]
    remedy = f"kubectl delete jobset,configmap {name}-1 --namespace {runs.namespace} --cascade=foreground"
    assert remedy in message
    assert (runs.names("jobset", name), runs.names("pod", name)) == ([f"jobset.jobset.x-k8s.io/{name}-1"], pods), (
        "only the old pods may train"
    )
    runs.devcluster.kubectl(*remedy.removeprefix("kubectl ").replace("foreground", cascade).split(), "--wait=false")

    def begun(status: dict[str, object]) -> bool:
        at_work = {
            (pod["metadata"]["labels"]["halcyon.dev/run-uid"], pod["metadata"]["name"])
            for pod in runs.pods_at_work(name)
        }
        assert len({uid for uid, _ in at_work}) <= 1, f"pods of both runs at once: {sorted(at_work)}"
        return status.get("phase") == "Running"

    status = runs.wait(name, "begun", begun)
    assert (counts(status), status["history"][0]["fromStep"] is not None) == ({}, True)
    assert runs.names("configmap", name) == [f"configmap/{name}-{status['attempt']}"]
