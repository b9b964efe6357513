"""The operator in a real cluster, as the chart installs it: every fault that can be made for real, with trainers that play a script.

The scripted trainer keeps the whole contract and ends when and how a test wants it to. What a real trainer makes of all this is tested
elsewhere; here it is about which world follows which, under which number, why, and what the user is told.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from halcyon_api.crd import custom_resource_definition
from halcyon_devcluster.binaries import Binaries
from halcyon_devcluster.commands import run as run_program
from halcyon_devcluster.images import Buildable, build
from halcyon_devcluster.programs import HELM
from halcyon_devcluster.waiting import until
from tests.cluster.conftest import PROGRESS, DevCluster
from tests.cluster.scripted import Operator, Runs, build_scripted_trainer
from tests.cluster.workloads import pod, pod_spec, wait_for_phase
from tests.faults import rows
from tests.faults.table import Trials

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

CHART = Path(__file__).parents[2] / "charts" / "halcyon"
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


@pytest.fixture(scope="module")
def runs(devcluster: DevCluster) -> Iterator[Runs]:
    """A namespace for runs."""
    name = f"runs-{secrets.token_hex(4)}"
    devcluster.kubectl.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}}])
    yield Runs(devcluster, name)
    devcluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module", autouse=True)
def operator(devcluster: DevCluster, runs: Runs, python_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """The operator from the chart, with rights in the runs' namespace alone."""
    namespace = f"operator-{secrets.token_hex(4)}"
    definition = custom_resource_definition()
    devcluster.kubectl.apply([definition, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": RESTRICTED}}])
    image = devcluster.load(build(Buildable.OPERATOR, cache=devcluster.cluster.paths.cache, progress=PROGRESS))
    trainer = build_scripted_trainer(devcluster, python_image)

    def parts(image: str) -> dict[str, str]:
        repository, _, tag = image.rpartition(":")
        return {"repository": repository, "tag": tag}

    values: dict[str, Any] = {
        "image": parts(image) | {"pullPolicy": "Never"},
        "trainerImage": parts(trainer),
        "watchNamespaces": [runs.namespace],
        "watchNodes": True,
        "crds": {"enabled": False},
        "log": {"level": "info", "format": "text"},
    }
    helm = Binaries(devcluster.cluster.paths.cache, PROGRESS).path(HELM, "helm")
    home = {name: str(tmp_path_factory.mktemp("helm")) for name in ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")}
    common = ["--kubeconfig", devcluster.kubeconfig, "--namespace", namespace]
    install = [helm, "install", "halcyon", CHART, *common, "--values", "-", "--wait", "--timeout", "90s"]
    run_program(install, stdin=yaml.safe_dump(values), environ=home)
    yield Operator(devcluster, namespace)
    run_program([helm, "uninstall", "halcyon", *common], environ=home)
    devcluster.kubectl("delete", "namespace", namespace, "--wait=false")


@pytest.fixture
def name(runs: Runs, request: pytest.FixtureRequest) -> Iterator[str]:
    """A name for a run, which is deleted after the test, with everything of it."""
    name = re.sub(r"[^a-z]+", "-", request.node.name.removeprefix("test_"))[:24].strip("-") + f"-{secrets.token_hex(3)}"
    yield name
    runs.kubectl("delete", "trainingrun", name, "--ignore-not-found", "--wait=false")


def causes(status: dict[str, Any]) -> list[tuple[int, int, str]]:
    return [(entry["attempt"], entry["restart"], entry.get("cause", "")) for entry in status["history"]]


def counts(status: dict[str, Any]) -> dict[str, int]:
    return {cause: count for cause, count in status["restarts"].items() if count and cause != "total"}


def test_a_run_from_apply_to_success(runs: Runs, name: str) -> None:
    runs.apply(name, "rate=50", "save=20", trainer={"steps": 60, "batchSize": 8, "sequenceLength": 64})
    status = runs.in_phase(name, "Succeeded")
    assert (status["attempt"], status["progress"]["step"], causes(status)) == (1, 60, [(1, 0, "completed")])
    assert status["checkpoint"]["source"] == "trainer"
    assert {c["type"]: c["status"] for c in status["conditions"]}["Ready"] == "True"
    runs.told(name, "AttemptStarted", "Succeeded")
    columns = runs.kubectl("get", "trainingrun", name, "--no-headers").split()
    assert columns[:4] == [name, "Succeeded", "60", "60"]
    metadata = runs.get(name)["metadata"]
    assert "finalizers" not in metadata
    assert list(metadata["annotations"]) == ["kubectl.kubernetes.io/last-applied-configuration"]
    managers = runs.kubectl("get", "trainingrun", name, "--show-managed-fields", "--output=jsonpath={.metadata.managedFields[*].manager}")
    assert "halcyon-operator" in managers.split()
    # Its time to live takes it, and all that it owns before it.
    runs.patch(name, ttlSecondsAfterFinished=1)
    runs.kubectl("wait", "--for=delete", f"trainingrun/{name}", "--timeout=60s")
    assert runs.names("jobset,configmap,pod", name) == []
    runs.told(name, "Expired")


def test_an_eviction_is_a_preemption_and_free(runs: Runs, name: str) -> None:
    runs.apply(name, recovery={"maxRestarts": 0, "gracePeriodSeconds": 5})
    runs.training(name)
    runs.devcluster.faults.evict(runs.namespace, runs.pods(name)[1])
    status = runs.training(name, restart=1)
    assert causes(status) == [(1, 0, "preempted"), (1, 1, "")]
    assert (counts(status), status["failuresWithoutCheckpoint"]) == ({"preempted": 1}, 0)
    assert "EvictionByEvictionAPI" in status["history"][0]["message"]
    runs.told(name, "Preempted")


def test_a_killed_process_is_a_failure(runs: Runs, name: str) -> None:
    runs.apply(name, "rate=10", "save=0")
    runs.training(name)
    runs.devcluster.faults.kill_container(runs.namespace, runs.pods(name)[0])
    status = runs.training(name, restart=1)
    assert (causes(status)[0], counts(status), status["failuresWithoutCheckpoint"]) == ((1, 0, "failed"), {"failed": 1}, 1)
    assert "exit code 137" in status["history"][0]["message"]


def test_a_deleted_pod_is_told_from_an_eviction(runs: Runs, name: str) -> None:
    runs.apply(name)
    runs.training(name)
    runs.kubectl("delete", "pod", runs.pods(name)[1], "--wait=false")
    status = runs.training(name, restart=1)
    assert (causes(status)[0], counts(status)) == ((1, 0, "podDeleted"), {"podDeleted": 1})


def test_a_deleted_jobset_is_made_again_under_the_next_number(runs: Runs, name: str) -> None:
    runs.apply(name, "rate=20", "save=5")
    before = runs.training(name, step=20)
    runs.kubectl("delete", "jobset", f"{name}-1", "--wait=false")
    status = runs.training(name, attempt=2)
    assert (causes(status)[0], counts(status)) == ((1, 0, "jobSetDeleted"), {"jobSetDeleted": 1})
    assert status["history"][1]["fromStep"] >= before["checkpoint"]["step"] > 0, "it goes on from the checkpoint"
    assert runs.names("jobset", name) == [f"jobset.jobset.x-k8s.io/{name}-2"]
    assert runs.names("configmap", name) == [f"configmap/{name}-2"]


@pytest.mark.parametrize("cascade", ["foreground", "background"])
def test_a_run_made_again_waits_for_what_the_old_one_left_at_work(runs: Runs, name: str, cascade: str) -> None:
    """Deleted without its JobSet, whose pods train on: the new run begins when they have saved and gone, and not beside them."""
    runs.apply(name, "rate=20", "save=5")
    runs.training(name, step=10)
    pods = runs.names("pod", name)
    runs.kubectl("delete", "trainingrun", name, "--cascade=orphan")
    runs.apply(name, "rate=20", "save=5")
    assert runs.stalled(name, "NameTaken")["attempt"] == 0
    message = runs.condition(name, "Stalled")["message"]
    mend = f"kubectl delete jobset,configmap {name}-1 --namespace {runs.namespace} --cascade=foreground"
    assert mend in message
    assert (runs.names("jobset", name), runs.names("pod", name)) == ([f"jobset.jobset.x-k8s.io/{name}-1"], pods), "they train on, alone"
    runs.devcluster.kubectl(*mend.removeprefix("kubectl ").replace("foreground", cascade).split(), "--wait=false")

    def begun(status: dict[str, Any]) -> bool:
        at_work = {(pod["metadata"]["labels"]["halcyon.dev/run-uid"], pod["metadata"]["name"]) for pod in runs.pods_at_work(name)}
        assert len({uid for uid, _ in at_work}) <= 1, f"pods of both runs at once: {sorted(at_work)}"
        return status.get("phase") == "Running"

    status = runs.wait(name, "begun", begun)
    assert (counts(status), status["history"][0]["fromStep"] is not None) == ({}, True)
    assert runs.names("configmap", name) == [f"configmap/{name}-{status['attempt']}"]


@rows.CONTROL_PLANE
def test_what_happens_while_the_operator_is_away_is_put_to_account(runs: Runs, operator: Operator, name: str, trials: Trials) -> None:
    runs.apply(name, "rate=10", "save=0")
    runs.training(name)
    operator.scale(0)
    faults = runs.devcluster.faults

    def restarts() -> int:
        return runs.devcluster.kubectl.json("get", "jobset", f"{name}-1", "--namespace", runs.namespace)["status"].get("restarts", 0)

    def running() -> list[str]:
        return [pod for pod in runs.pods(name) if "Running" in runs.kubectl("get", "pod", pod, "--no-headers", "--ignore-not-found")]

    faults.kill_container(runs.namespace, runs.pods(name)[0])
    until(lambda: restarts() == 1 and len(running()) == 2, timeout_seconds=60, failure=lambda: str(runs.pods(name)))
    faults.evict(runs.namespace, runs.pods(name)[1])
    until(lambda: restarts() == 2 and len(running()) == 2, timeout_seconds=60, failure=lambda: str(runs.pods(name)))
    operator.scale(1)
    status = runs.training(name, restart=2)
    assert (status["attempt"], counts(status)) == (1, {"failed": 1, "preempted": 1})
    assert len(runs.names("jobset", name)) == 1
    trials.count("restarts without an operator", 2)


@rows.CONTROL_PLANE
@pytest.mark.parametrize("operator_too", [False, True], ids=["api-server", "api-server-and-operator"])
def test_a_preemption_while_there_is_no_api_server(runs: Runs, operator: Operator, name: str, trials: Trials, operator_too: bool) -> None:
    """Nothing can be started then, but nothing is lost either: JobSet restarts the run once it can be told, whoever else is there."""
    runs.apply(name, "rate=10", "save=5")
    runs.training(name, step=10)
    ctr, faults = runs.devcluster.cluster.ctr, runs.devcluster.faults
    victim, peer = (set(ctr.containers(runs.namespace, pod)) for pod in runs.pods(name))
    pods = set(runs.names("pod", name))

    def running(ids: set[str]) -> list[str]:
        return [task.container for task in ctr.tasks() if task.container in ids and task.status == "RUNNING"]

    if operator_too:
        operator.scale(0)
    try:
        with faults.apiserver_down():
            (process,) = running(victim)
            ctr("tasks", "kill", "--signal", "SIGTERM", process)  # as a node does that is about to go
            until(lambda: not running(victim), timeout_seconds=60, failure=lambda: "the notice is not heeded")
            assert running(peer), "nobody ends it"

        def restarted() -> bool:
            jobset = runs.devcluster.kubectl.json("get", "jobset", f"{name}-1", "--namespace", runs.namespace)
            fresh = [pod for pod in runs.names("pod", name) if pod not in pods]
            return jobset["status"].get("restarts", 0) == 1 and len(fresh) == 2

        until(restarted, timeout_seconds=90, failure=lambda: str(runs.names("pod", name)))
    finally:
        if operator_too:
            operator.scale(1)
    status = runs.training(name, restart=1)
    assert (status["attempt"], counts(status)) == (1, {"preempted": 1})
    assert [(entry["attempt"], entry["restart"]) for entry in status["history"]] == [(1, 0), (1, 1)]
    assert status["history"][0]["cause"] == "preempted"
    assert len(runs.names("jobset", name)) == 1
    trials.count("preemptions without an API server" + (" and without an operator" if operator_too else ""))


@rows.CONTROL_PLANE
def test_an_api_server_that_is_away_for_a_while_changes_nothing(runs: Runs, name: str, trials: Trials) -> None:
    runs.apply(name)
    before = runs.training(name)
    with runs.devcluster.faults.apiserver_down():
        pass
    after = runs.training(name, step=before["progress"]["step"] + 1)
    assert (after["attempt"], counts(after)) == (1, {})
    runs.devcluster.faults.evict(runs.namespace, runs.pods(name)[0])
    assert counts(runs.training(name, restart=1)) == {"preempted": 1}
    trials.count("API servers away in mid-run")


def test_suspension_frees_everything_and_resumes_from_the_checkpoint(runs: Runs, name: str) -> None:
    runs.apply(name, "rate=20", "save=5")
    runs.training(name, step=15)
    runs.patch(name, suspend=True)
    status = runs.in_phase(name, "Suspended")
    assert runs.names("jobset,pod", name) == []
    saved = status["checkpoint"]["step"]
    assert saved >= 15
    runs.patch(name, suspend=False)
    status = runs.training(name, attempt=2)
    assert (causes(status)[0], counts(status)) == ((1, 0, "suspended"), {"resumed": 1})
    assert status["history"][1]["fromStep"] >= saved
    runs.told(name, "Suspended", "Resumed")


def test_an_edit_of_the_hardware_makes_a_new_attempt_and_one_of_the_clock_does_not(runs: Runs, name: str) -> None:
    runs.apply(name)
    runs.training(name)
    runs.patch(name, telemetry={"statusIntervalSeconds": 2}, recovery={"maxRestarts": 5})
    generation = runs.get(name)["metadata"]["generation"]
    runs.wait(name, "seen", lambda status: status.get("observedGeneration") == generation)
    assert runs.status(name)["attempt"] == 1
    runs.patch(name, accelerator={"slices": 1})
    status = runs.training(name, attempt=2)
    assert (causes(status)[0], counts(status)) == ((1, 0, "specChanged"), {"specChanged": 1})
    assert status["topology"]["slices"] == 1
    assert len(runs.pods(name)) == 1
    first, second = status["history"]
    assert first["message"].startswith("the spec was edited: accelerator.slices; saved at step ")
    assert second["fromStep"] >= int(first["message"].rsplit(" ", 1)[1]) > 0
    runs.told(name, "EditPending", "EditApplied")


FATAL = {80: "BadConfiguration", 82: "NoValidCheckpoint", 83: "RunChanged", 84: "CheckpointRootTaken", 85: "CheckpointRootUnusable"}


@pytest.mark.parametrize("code", FATAL)
def test_a_reserved_exit_code_stops_the_run_until_its_spec_is_edited(runs: Runs, name: str, code: int) -> None:
    runs.apply(name, f"exit={code},step=5,attempt=1,say=so_it_is")
    status = runs.stalled(name, FATAL[code])
    assert status["phase"] == "Failed"
    assert "so it is" in runs.condition(name, "Ready")["message"]
    assert runs.pods(name), "its pods are kept, for their logs"
    assert status["restarts"]["total"] == 0
    if code == 83:
        runs.patch(name, ttlSecondsAfterFinished=99999)
        assert counts(runs.training(name, attempt=2)) == {"specChanged": 1}


def test_a_crash_loop_without_checkpoints_stops(runs: Runs, name: str) -> None:
    runs.apply(name, "exit=1,step=3,process=1,say=boom", "save=0", "rate=20")
    status = runs.stalled(name, "RestartsExhausted")
    assert (status["attempt"], counts(status), status["failuresWithoutCheckpoint"]) == (1, {"failed": 2}, 3)
    assert "boom" in runs.condition(name, "Stalled")["message"]


def test_crashes_with_checkpoints_in_between_do_not(runs: Runs, name: str) -> None:
    crashes = [f"exit=1,step={20 + 10 * restart},restart={restart},attempt=1" for restart in range(3)]
    runs.apply(name, *crashes, "rate=20", "save=5")
    status = runs.training(name, attempt=2)
    assert counts(status) == {"failed": 3}
    assert all(cause == "failed" for _, _, cause in causes(status)[:-1])


def test_a_fenced_attempt_is_followed_by_one_above_the_other_writer(runs: Runs, name: str) -> None:
    runs.apply(name, "exit=81,step=5,attempt=1")
    status = runs.training(name, attempt=4)
    assert counts(status) == {"fenced": 1}, "the trainer said that attempt 3 owns the root"


def test_an_image_that_cannot_be_pulled_is_told_and_mended(runs: Runs, name: str) -> None:
    runs.apply(name, image="registry.invalid/none:1")
    status = runs.wait(name, "told", lambda _: runs.condition(name, "Ready").get("reason") == "ImagePullFailed")
    assert {c["type"]: c["status"] for c in status["conditions"]}["Stalled"] == "False"
    assert "registry.invalid/none:1" in runs.condition(name, "Ready")["message"]
    runs.kubectl("patch", "trainingrun", name, "--type=json", "--patch", json.dumps([{"op": "remove", "path": "/spec/image"}]))
    runs.training(name, attempt=2)


def free_millicores(devcluster: DevCluster) -> int:
    """Processor time that pods may still ask for."""

    def millicores(quantity: str) -> int:
        return int(quantity[:-1]) if quantity.endswith("m") else int(float(quantity) * 1000)

    (node,) = devcluster.kubectl.json("get", "nodes")["items"]
    pods = devcluster.kubectl.json("get", "pods", "--all-namespaces")["items"]
    asked = [
        millicores(container.get("resources", {}).get("requests", {}).get("cpu", "0"))
        for pod in pods
        if pod["status"]["phase"] in ("Pending", "Running")
        for container in pod["spec"]["containers"]
    ]
    return millicores(node["status"]["allocatable"]["cpu"]) - sum(asked)


def test_a_run_shrinks_to_the_room_there_is_and_grows_back_at_a_checkpoint(runs: Runs, name: str, python_image: str) -> None:
    """There is room for two of three pods: two slices, and one that holds a place."""
    each = f"{free_millicores(runs.devcluster) * 2 // 5}m"
    holder = pod("holder", pod_spec(python_image, "import time; time.sleep(10**6)", terminationGracePeriodSeconds=0))
    holder["spec"]["containers"][0]["resources"] = {"requests": {"cpu": each}}
    runs.devcluster.kubectl.apply([holder], "--namespace", runs.namespace)
    wait_for_phase(runs.devcluster.kubectl, runs.namespace, "holder", "Running")
    elastic = {"minSlices": 1, "shrinkAfterSeconds": 4, "growAfterSeconds": 2}
    runs.apply(
        name,
        "rate=10",
        "save=50",
        accelerator={"type": "cpu", "slices": 2, "hostResources": {"cpu": each}},
        recovery={"elastic": elastic, "gracePeriodSeconds": 5},
    )
    small = runs.training(name, attempt=2)
    assert (small["topology"]["slices"], small["placement"]["wantedSlices"]) == (1, 2)
    assert "have found no node" in small["placement"]["reason"]
    assert runs.condition(name, "Degraded")["status"] == "True"
    probe = f"--selector=halcyon.dev/run={name},halcyon.dev/role=probe"
    until(
        lambda: runs.kubectl("get", "pods", probe, "--output=name"),
        timeout_seconds=60,
        failure=lambda: runs.kubectl("describe", "jobset,job", probe) + runs.kubectl("get", "events") + str(runs.status(name)),
    )
    assert runs.status(name)["attempt"] == 2
    runs.kubectl("delete", "pod", "holder", "--wait=false")
    room = runs.wait(name, "told of room", lambda status: status.get("placement", {}).get("roomSince") or status["attempt"] == 3)
    whole = runs.training(name, attempt=3)
    assert whole["topology"]["slices"] == 2
    assert whole["history"][-1]["fromStep"] >= room["checkpoint"]["step"]
    assert [cause for _, _, cause in causes(whole)] == ["resized", "resized", ""]
    assert counts(whole) == {"resized": 2}
    assert runs.condition(name, "Degraded")["status"] == "False"
    until(
        lambda: not runs.kubectl("get", "jobset", probe, "--output=name"),
        timeout_seconds=60,
        failure=lambda: str(runs.names("jobset", name)),
    )
    runs.told(name, "Shrinking", "RoomFound", "Growing")


def test_a_name_that_is_taken_is_told_and_left_alone(runs: Runs, name: str) -> None:
    runs.kubectl("create", "configmap", f"{name}-1", "--from-literal=mine=yes")
    runs.apply(name)
    runs.stalled(name, "NameTaken")
    assert runs.kubectl("get", "configmap", f"{name}-1", "--output=jsonpath={.data.mine}") == "yes"
    runs.kubectl("delete", "configmap", f"{name}-1")
    runs.training(name)


def test_deleting_a_run_takes_everything_along(runs: Runs, operator: Operator, name: str) -> None:
    runs.apply(name)
    runs.training(name)
    operator.scale(0)
    try:
        runs.kubectl("delete", "trainingrun", name, "--wait=true", "--timeout=30s")
        until(lambda: not runs.names("jobset,job,pod,configmap", name), timeout_seconds=60, failure=lambda: str(runs.pods(name)))
    finally:
        operator.scale(1)


def test_the_operator_was_refused_nothing_and_is_small(runs: Runs, operator: Operator) -> None:
    text = operator.metrics()
    assert 'code="403"' not in text
    (resident,) = re.findall(r"^process_resident_memory_bytes (\S+)$", text, re.MULTILINE)
    print(f"operator: {float(resident) / 2**20:.0f} MiB resident")
    assert float(resident) < 150 * 2**20
    log = runs.devcluster.kubectl("logs", operator.pod, "--namespace", operator.namespace)
    assert "Traceback" not in log


def test_a_checkpoint_is_made_when_the_annotation_asks_for_one(runs: Runs, name: str) -> None:
    runs.apply(name, "rate=5", "save=1000000")
    runs.training(name, step=3)
    runs.kubectl("annotate", "trainingrun", name, "halcyon.dev/checkpoint=one", "--overwrite")
    status = runs.wait(name, "saved", lambda status: "step" in status.get("saveRequest", {}))
    asked = status["saveRequest"]
    assert (asked["value"], status["checkpoint"]["step"]) == ("one", asked["step"])
    assert 3 <= asked["askedStep"] <= asked["step"] <= asked["askedStep"] + 2
    runs.told(name, "CheckpointSaved")
    runs.training(name, step=asked["step"] + 5)
    assert runs.status(name)["checkpoint"]["step"] == asked["step"], "one request, one checkpoint"
    runs.kubectl("annotate", "trainingrun", name, "halcyon.dev/checkpoint=two", "--overwrite")
    again = runs.wait(name, "saved again", lambda status: status["saveRequest"].get("step", 0) > asked["step"])
    assert again["saveRequest"]["value"] == "two"
    token = runs.kubectl(
        "get", "pod", runs.pods(name)[0], "--output=jsonpath={.spec.containers[0].env[?(@.name=='HALCYON_SAVE_TOKEN')].value}"
    )
    assert len(token) >= 32
    assert token not in json.dumps(runs.get(name))


def test_a_node_that_announces_its_end_makes_its_runs_save(runs: Runs, name: str) -> None:
    runs.apply(name, "rate=5", "save=1000000")
    runs.training(name, step=3)
    node = runs.devcluster.kubectl("get", "nodes", "--output=name").split()[0].removeprefix("node/")
    taint = "cloud.google.com/impending-node-termination"
    runs.devcluster.kubectl("taint", "node", node, f"{taint}=:NoSchedule")
    try:
        status = runs.wait(name, "saved", lambda status: "step" in (status.get("maintenance", {}).get("save") or {}))
        (notice,) = status["maintenance"]["notices"]
        assert (notice["node"], notice["notice"]) == (node, "terminating")
        assert status["checkpoint"]["step"] == status["maintenance"]["save"]["step"] >= 3
        assert runs.told(name, "MaintenanceNotice").count("MaintenanceNotice") == 1
    finally:
        runs.devcluster.kubectl("taint", "node", node, f"{taint}-")
    status = runs.wait(name, "without notices", lambda status: "maintenance" not in status)
    assert causes(status) == [(1, 0, "")], "nobody left because of a notice"


def test_an_operator_that_is_stuck_is_started_again_and_no_run_minds(runs: Runs, operator: Operator, name: str) -> None:
    """It stands still without a word, as an event loop does that does not turn: the kubelet sees it by what does not answer."""
    runs.apply(name)
    before = runs.training(name)
    kubectl, ctr, pod = runs.devcluster.kubectl, runs.devcluster.cluster.ctr, operator.pod
    own = set(ctr.containers(operator.namespace, pod))
    (process,) = [task.container for task in ctr.tasks() if task.container in own and task.status == "RUNNING"]
    ctr("tasks", "kill", "--signal", "SIGSTOP", process)

    def restarts() -> str:
        return kubectl(
            "get", "pod", pod, "--namespace", operator.namespace, "--output=jsonpath={.status.containerStatuses[0].restartCount}"
        )

    until(
        lambda: restarts() == "1", timeout_seconds=150, failure=lambda: kubectl("describe", "pod", pod, "--namespace", operator.namespace)
    )
    assert "Liveness probe failed" in kubectl("get", "events", "--namespace", operator.namespace)
    after = runs.training(name, step=before["progress"]["step"] + 1)
    assert (after["attempt"], counts(after)) == (1, {})
