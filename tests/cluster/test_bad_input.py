"""What others do to runs, their objects, their status and their namespaces, at the real API server, with an operator of the whole cluster.

This file comes first in its folder: an operator of the whole cluster would look after the runs of all other tests, too.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from halcyon_api.crd import custom_resource_definition
from halcyon_demo.documents import REPOSITORY
from halcyon_demo.install import helm
from halcyon_devcluster import DevclusterError
from halcyon_devcluster.images import Buildable, build
from halcyon_devcluster.waiting import until
from tests.cluster.conftest import PROGRESS, DevCluster
from tests.cluster.scripted import Operator, Runs, build_scripted_trainer
from tests.cluster.workloads import pod_spec

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
LONG = 10_000
RUNS_AT_ONCE = 50

Install = Callable[..., Operator]


def made_namespace(devcluster: DevCluster, kind: str) -> str:
    name = f"{kind}-{secrets.token_hex(4)}"
    devcluster.kubectl.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}}])
    return name


@pytest.fixture(scope="module")
def install(devcluster: DevCluster, python_image: str) -> Iterator[Install]:
    """Installs the chart in a namespace of its own; all releases are uninstalled in the end."""
    devcluster.kubectl.apply([custom_resource_definition()])
    operator = devcluster.load(build(Buildable.OPERATOR, cache=devcluster.cluster.paths.cache, progress=PROGRESS)).rpartition(":")
    trainer = build_scripted_trainer(devcluster, python_image).rpartition(":")
    installed: list[str] = []

    def install(**values: Any) -> Operator:
        namespace = made_namespace(devcluster, "operator")
        values |= {
            "image": {"repository": operator[0], "tag": operator[2], "pullPolicy": "Never"},
            "trainerImage": {"repository": trainer[0], "tag": trainer[2]},
            "crds": {"enabled": False},
            "log": {"level": "info", "format": "text"},
        }
        command = ["install", "halcyon", REPOSITORY / "charts" / "halcyon", "--namespace", namespace]
        helm(devcluster.cluster, *command, "--values", "-", "--wait", "--timeout", "90s", stdin=yaml.safe_dump(values))
        installed.append(namespace)
        return Operator(devcluster, namespace)

    yield install
    for namespace in installed:
        uninstall(devcluster, namespace)


def uninstall(devcluster: DevCluster, namespace: str) -> None:
    helm(devcluster.cluster, "uninstall", "halcyon", "--namespace", namespace, "--ignore-not-found")
    devcluster.kubectl("delete", "namespace", namespace, "--wait=false", "--ignore-not-found")


@pytest.fixture(scope="module")
def runs(devcluster: DevCluster) -> Iterator[Runs]:
    runs = Runs(devcluster, made_namespace(devcluster, "runs"))
    yield runs
    devcluster.kubectl("delete", "namespace", runs.namespace, "--wait=false")


@pytest.fixture(scope="module")
def operator(install: Install, runs: Runs) -> Operator:
    """The operator of the whole cluster."""
    return install(clusterWide=True)


@pytest.fixture
def name(runs: Runs, operator: Operator, request: pytest.FixtureRequest) -> Iterator[str]:
    """A name for a run, which is deleted after the test, with everything of it."""
    name = re.sub(r"[^a-z]+", "-", request.node.name.removeprefix("test_"))[:24].strip("-") + f"-{secrets.token_hex(3)}"
    yield name
    runs.kubectl("delete", "trainingrun", name, "--ignore-not-found", "--wait=false")


def refused(runs: Runs, *arguments: str, stdin: str | None = None) -> str:
    """What the API server says against a command, in one line."""
    with pytest.raises(DevclusterError) as said:
        runs.kubectl(*arguments, stdin=stdin)
    return " ".join(str(said.value).split())


def a_jobset(name: str, image: str) -> dict[str, Any]:
    """Somebody's JobSet, which waits."""
    template = {"spec": pod_spec(image, "pass")}
    job = {"name": "theirs", "template": {"spec": {"template": template}}}
    spec = {"suspend": True, "replicatedJobs": [job]}
    return {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "metadata": {"name": name}, "spec": spec}


def test_a_foreign_jobset_under_the_runs_name_is_told_and_left_alone(runs: Runs, name: str, python_image: str) -> None:
    runs.devcluster.kubectl.apply([a_jobset(f"{name}-1", python_image)], "--namespace", runs.namespace)
    version = "--output=jsonpath={.metadata.uid}/{.metadata.generation}"
    before = runs.kubectl("get", "jobset", f"{name}-1", version)
    runs.apply(name)
    runs.stalled(name, "NameTaken")
    assert f"JobSet {name}-1 exists and is not this run's; remove it" in runs.condition(name, "Stalled")["message"]
    assert runs.kubectl("get", "jobset", f"{name}-1", version) == before
    runs.kubectl("delete", "jobset", f"{name}-1")
    runs.training(name)


def test_what_the_operator_made_cannot_be_edited_and_a_suspended_jobset_is_followed_by_the_next(runs: Runs, name: str) -> None:
    runs.apply(name, "rate=20", "save=5")
    before = runs.training(name, step=10)
    edit = json.dumps({"data": {"run.yaml": "mine"}})
    assert "field is immutable when `immutable` is set" in refused(runs, "patch", "configmap", f"{name}-1", "--type=merge", "--patch", edit)
    more = json.dumps([{"op": "replace", "path": "/spec/replicatedJobs/0/replicas", "value": 9}])
    assert "field is immutable" in refused(runs, "patch", "jobset", f"{name}-1", "--type=json", "--patch", more)
    runs.kubectl("patch", "jobset", f"{name}-1", "--type=merge", "--patch", '{"spec": {"suspend": true}}')
    status = runs.training(name, attempt=2)
    assert status["history"][0]["cause"] == "preempted"
    assert "was suspended by somebody else" in status["history"][0]["message"]
    assert status["history"][-1]["fromStep"] >= before["checkpoint"]["step"] > 0
    assert runs.names("jobset", name) == [f"jobset.jobset.x-k8s.io/{name}-2"]


def test_an_exceeded_quota_is_told_and_waited_for(runs: Runs, name: str) -> None:
    kind = "count/jobsets.jobset.x-k8s.io"
    runs.kubectl("create", "quota", "none", f"--hard={kind}=0")
    has_status = "--output=jsonpath={.status.hard}"
    until(lambda: kind in runs.kubectl("get", "quota", "none", has_status), timeout_seconds=30, failure=lambda: "the quota is not in force")
    try:
        runs.apply(name)
        runs.wait(name, "told", lambda _: runs.condition(name, "Ready").get("reason") == "CreateRefused")
        assert "exceeded quota: none" in runs.condition(name, "Ready")["message"]
    finally:
        runs.kubectl("delete", "quota", "none")
    assert runs.training(name)["attempt"] == 1


def test_a_status_that_is_wiped_costs_one_attempt_and_wrong_types_are_refused(runs: Runs, name: str) -> None:
    runs.apply(name, "rate=20", "save=5")
    runs.training(name, step=10)
    patch = ["patch", "trainingrun", name, "--subresource=status", "--type=merge", "--patch"]
    assert "status.attempt: Invalid value" in refused(runs, *patch, '{"status": {"attempt": "many"}}')
    runs.kubectl("patch", "trainingrun", name, "--subresource=status", "--type=json", "--patch", '[{"op": "remove", "path": "/status"}]')
    status = runs.training(name, attempt=2)
    assert status["history"][-1]["fromStep"] >= 10
    assert runs.names("jobset", name) == [f"jobset.jobset.x-k8s.io/{name}-2"]


def test_an_annotation_of_any_length_asks_for_one_checkpoint(runs: Runs, name: str) -> None:
    runs.apply(name, "rate=5", "save=1000000")
    runs.training(name, step=2)
    runs.kubectl("annotate", "trainingrun", name, f"halcyon.dev/checkpoint={'x' * LONG}")
    status = runs.wait(name, "saved", lambda status: "step" in status.get("saveRequest", {}))
    assert len(status["saveRequest"]["value"]) < LONG


@pytest.mark.slow
def test_many_runs_at_once_get_one_jobset_each(runs: Runs, operator: Operator) -> None:
    """They find no node, for this is about the operator and the API server."""
    prefix = f"many-{secrets.token_hex(2)}"
    names = [f"{prefix}-{number}" for number in range(RUNS_AT_ONCE)]
    runs.apply(names[0], accelerator={"type": "cpu"}, scheduling={"nodeSelector": {"there-is": "none"}})
    spec = runs.get(names[0])["spec"]
    rest = [{"apiVersion": "halcyon.dev/v1alpha1", "kind": "TrainingRun", "metadata": {"name": name}, "spec": spec} for name in names[1:]]
    runs.kubectl("create", "--filename=-", stdin=yaml.safe_dump_all(rest))

    def unschedulable() -> list[str]:
        found = runs.devcluster.kubectl.json("get", "trainingruns", "--namespace", runs.namespace)["items"]
        ready = [
            (run["metadata"]["name"], condition["reason"])
            for run in found
            for condition in run.get("status", {}).get("conditions", [])
            if condition["type"] == "Ready"
        ]
        return sorted(name for name, reason in ready if reason == "Unschedulable" and name.startswith(prefix))

    try:
        until(lambda: unschedulable() == sorted(names), timeout_seconds=180, failure=lambda: f"{len(unschedulable())} of {len(names)}")
        jobsets = runs.kubectl("get", "jobsets", "--output=jsonpath={.items[*].metadata.name}").split()
        assert sorted(jobset for jobset in jobsets if jobset.startswith(prefix)) == sorted(f"{name}-1" for name in names)
    finally:
        runs.kubectl("delete", "trainingruns", *names, "--wait=false", "--ignore-not-found")
    assert "Traceback" not in runs.devcluster.kubectl("logs", operator.pod, "--namespace", operator.namespace)


def test_a_namespace_that_goes_takes_its_runs_along_and_disturbs_no_other(runs: Runs, install: Install, operator: Operator) -> None:
    """With an operator that has rights in the namespaces alone: those in one of them go with it."""
    devcluster = runs.devcluster
    uninstall(devcluster, operator.namespace)
    doomed, kept = (Runs(devcluster, made_namespace(devcluster, kind)) for kind in ("doomed", "kept"))
    namespaced = install(watchNamespaces=[doomed.namespace, kept.namespace])
    try:
        doomed.apply("run")
        kept.apply("run", "rate=10", "save=5")
        doomed.training("run")
        before = kept.training("run")
        devcluster.kubectl("delete", "namespace", doomed.namespace, "--timeout=120s")
        restarts = "--output=jsonpath={.status.containerStatuses[*].restartCount}"
        until(
            lambda: devcluster.kubectl("get", "pod", namespaced.pod, "--namespace", namespaced.namespace, restarts) == "1",
            timeout_seconds=90,
            failure=lambda: devcluster.kubectl("logs", namespaced.pod, "--namespace", namespaced.namespace),
        )
        namespaced.scale(1)  # returns when it is ready
        devcluster.faults.kill_container(kept.namespace, kept.pods("run")[0])
        after = kept.training("run", restart=1)
        assert after["attempt"] == before["attempt"] == 1
        log = devcluster.kubectl("logs", namespaced.pod, "--namespace", namespaced.namespace)
        assert f"no right to the TrainingRuns of {doomed.namespace}: left out until there is one" in log
        assert devcluster.kubectl("get", "pod", namespaced.pod, "--namespace", namespaced.namespace, restarts) == "1"
    finally:
        devcluster.kubectl("delete", "namespace", kept.namespace, doomed.namespace, "--wait=false", "--ignore-not-found")
