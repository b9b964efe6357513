"""Changes of a run by a user, and their effects: an edit, a suspension, a request for a checkpoint, other hardware.

The tests change the same run one after the other, so that its pods start only once.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator

import pytest

from halcyon_devcluster import DevclusterError
from halcyon_devcluster.waiting import until
from tests.cluster.scripted import INTERVAL_SECONDS, Operator, Runs, causes, counts
from tests.cluster.workloads import allocatable_memory, pod, pod_spec, wait_for_phase
from tests.suite import promises
from tests.suite.limits import limit

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

LONG = 10_000


@pytest.fixture(scope="module")
def changed(runs: Runs) -> Iterator[str]:
    """A run that saves every 5 steps, and when it stops."""
    name = f"changed-{secrets.token_hex(3)}"
    runs.apply(name, "rate=20", "save=5")
    yield name
    runs.delete(name)


@promises.COLUMNS
@promises.ONE_DOCUMENT
def test_a_run_from_apply_to_success(runs: Runs, name: str) -> None:
    runs.apply(name, "rate=50", "save=20", trainer={"steps": 60, "batchSize": 8, "sequenceLength": 64})
    status = runs.in_phase(name, "Succeeded")
    assert (status["attempt"], status["progress"]["step"], causes(status)) == (1, 60, [(1, 0, "completed")])
    assert status["checkpoint"]["source"] == "trainer"
    assert {c["type"]: c["status"] for c in status["conditions"]}["Ready"] == "True"
    runs.wait_for_events(name, "AttemptStarted", "Succeeded")
    columns = runs.kubectl("get", "trainingrun", name, "--no-headers").split()
    assert columns[:4] == [name, "Succeeded", "60", "60"]
    metadata = runs.get(name)["metadata"]
    assert "finalizers" not in metadata
    assert list(metadata["annotations"]) == ["kubectl.kubernetes.io/last-applied-configuration"]
    assert "halcyon-operator" in {entry["manager"] for entry in metadata["managedFields"]}
    # Its time to live deletes the run, after all its objects.
    runs.patch(name, ttlSecondsAfterFinished=1)
    runs.kubectl("wait", "--for=delete", f"trainingrun/{name}", f"--timeout={limit(60)}s")
    assert runs.names("jobset,configmap,pod", name) == []
    runs.wait_for_events(name, "Expired")


def test_a_checkpoint_is_made_when_the_annotation_asks_for_one(runs: Runs, name: str) -> None:
    runs.apply(name, "rate=5", "save=1000000", accelerator={"type": "cpu"})
    began = runs.training(name)["progress"]["step"]
    runs.kubectl("annotate", "trainingrun", name, "halcyon.dev/checkpoint=one", "--overwrite")
    status = runs.wait(name, "saved", lambda status: "step" in status.get("saveRequest", {}))
    asked = status["saveRequest"]
    assert (asked["value"], status["checkpoint"]["step"]) == ("one", asked["step"])
    assert began <= asked["askedStep"] <= asked["step"] <= asked["askedStep"] + 2
    runs.wait_for_events(name, "CheckpointSaved")
    runs.training(name, step=asked["step"] + 5)
    assert runs.status(name)["checkpoint"]["step"] == asked["step"], "one request, one checkpoint"
    # An annotation of any length requests a checkpoint.
    runs.kubectl("annotate", "trainingrun", name, f"halcyon.dev/checkpoint=two{'x' * LONG}", "--overwrite")
    again = runs.wait(name, "saved again", lambda status: status["saveRequest"].get("step", 0) > asked["step"])
    assert again["saveRequest"]["value"].startswith("two")
    assert len(again["saveRequest"]["value"]) < LONG
    first = runs.api.get("pod", runs.namespace, runs.pods(name)[0])
    (token,) = [
        entry["value"] for entry in first["spec"]["containers"][0]["env"] if entry["name"] == "HALCYON_SAVE_TOKEN"
    ]
    assert len(token) >= 32
    assert token not in json.dumps(runs.get(name))


def test_a_budget_binds_a_run_whose_trainer_reports_no_account_of_its_time(runs: Runs, name: str) -> None:
    runs.apply(name, "rate=5", "save=5", accelerator={"type": "cpu"}, budget={"chipHours": 0.001})
    status = runs.in_phase(name, "Suspended")  # after 3.6 seconds of its pod: perhaps before its training was seen
    assert runs.condition(name, "Ready")["reason"] == "BudgetSpent"
    assert status["spent"]["chipHours"] >= 0.001, "the operator counts the time that the pod held its node"
    assert not any(entry.get("seconds", {}).get("productiveStep") for entry in status["history"])


def test_suspension_frees_everything_and_resumes_from_the_checkpoint(runs: Runs, changed: str) -> None:
    attempt, restart = runs.group(changed)
    before = runs.training(changed, attempt, restart, step=10)
    runs.patch(changed, suspend=True)
    status = runs.in_phase(changed, "Suspended")
    assert runs.names("jobset,pod", changed) == []
    saved = status["checkpoint"]["step"]
    assert saved >= before["progress"]["step"]
    runs.patch(changed, suspend=False)
    status = runs.training(changed, attempt + 1)
    assert (causes(status)[-2], counts(status, before)) == ((attempt, restart, "suspended"), {"resumed": 1})
    assert status["history"][-1]["fromStep"] >= saved
    runs.wait_for_events(changed, "Suspended", "Resumed")


def test_an_edit_of_the_hardware_makes_a_new_attempt_and_one_of_the_clock_does_not(runs: Runs, changed: str) -> None:
    attempt, restart = runs.group(changed)
    before = runs.training(changed, attempt, restart)
    runs.patch(changed, telemetry={"statusIntervalSeconds": 2}, recovery={"maxRestarts": 5})
    generation = runs.get(changed)["metadata"]["generation"]
    runs.wait(changed, "seen", lambda status: status.get("observedGeneration") == generation)
    assert runs.status(changed)["attempt"] == attempt
    runs.patch(changed, accelerator={"slices": 1})
    status = runs.training(changed, attempt + 1)
    assert (causes(status)[-2], counts(status, before)) == ((attempt, restart, "specChanged"), {"specChanged": 1})
    assert status["topology"]["slices"] == 1
    assert len(runs.pods(changed)) == 1
    ended, begun = status["history"][-2:]
    assert ended["message"].startswith("the spec was edited: accelerator.slices; saved at step ")
    assert begun["fromStep"] >= int(ended["message"].rsplit(" ", 1)[1]) > 0
    runs.wait_for_events(changed, "EditPending", "EditApplied")


def test_objects_of_the_operator_are_immutable_and_a_suspended_jobset_stays_suspended(runs: Runs, changed: str) -> None:
    attempt, restart = runs.group(changed)
    before = runs.training(changed, attempt, restart, step=10)
    edit = json.dumps({"data": {"run.yaml": "mine"}})
    made = f"{changed}-{attempt}"
    assert "field is immutable when `immutable` is set" in refused(
        runs, "patch", "configmap", made, "--type=merge", "--patch", edit
    )
    more = json.dumps([{"op": "replace", "path": "/spec/replicatedJobs/0/replicas", "value": 9}])
    assert "field is immutable" in refused(runs, "patch", "jobset", made, "--type=json", "--patch", more)
    runs.kubectl("patch", "jobset", made, "--type=merge", "--patch", '{"spec": {"suspend": true}}')
    runs.wait(
        changed, "reported as suspended", lambda _: runs.condition(changed, "Ready")["reason"] == "JobSetSuspended"
    )
    until(
        lambda: not runs.pods(changed),
        timeout_seconds=60,
        interval_seconds=INTERVAL_SECONDS,
        failure=lambda: "its pods stay: " + str(runs.pods(changed)),
    )
    assert runs.names("jobset", changed) == [f"jobset.jobset.x-k8s.io/{made}"], (
        "the operator does not resume or replace it"
    )
    runs.kubectl("patch", "jobset", made, "--type=merge", "--patch", '{"spec": {"suspend": false}}')
    status = runs.training_after(changed, attempt, restart)
    ended, begun = status["history"][-2:]
    assert causes(status)[-2] == (attempt, restart, "preempted")
    assert "was suspended by a user" in ended["message"]
    if (
        begun["attempt"] == attempt
    ):  # a process had ended before its Job was suspended: then JobSet itself counts a restart
        assert counts(status, before) == {"podDeleted": 1}
        return
    assert counts(status, before) == {"preempted": 1}
    assert begun["fromStep"] >= before["checkpoint"]["step"] > 0
    assert runs.names("jobset", changed) == [f"jobset.jobset.x-k8s.io/{changed}-{attempt + 1}"]


def test_a_status_that_is_wiped_costs_one_attempt_and_wrong_types_are_refused(runs: Runs, changed: str) -> None:
    attempt, restart = runs.group(changed)
    before = runs.training(changed, attempt, restart, step=10)
    patch = ["patch", "trainingrun", changed, "--subresource=status", "--type=merge", "--patch"]
    assert "status.attempt: Invalid value" in refused(runs, *patch, '{"status": {"attempt": "many"}}')
    runs.kubectl(
        "patch",
        "trainingrun",
        changed,
        "--subresource=status",
        "--type=json",
        "--patch",
        '[{"op": "remove", "path": "/status"}]',
    )
    status = runs.training(changed, attempt + 1)
    # Each slice of the script saves by itself, so the report that the operator has then may be from the slice that is
    # some saves behind.
    assert status["history"][-1]["fromStep"] > before["history"][-1]["fromStep"]
    assert runs.names("jobset", changed) == [f"jobset.jobset.x-k8s.io/{changed}-{attempt + 1}"]


def refused(runs: Runs, *arguments: str) -> str:
    """The API server's error for a command, in one line."""
    with pytest.raises(DevclusterError) as caught:
        runs.kubectl(*arguments)
    return " ".join(str(caught.value).split())


@pytest.mark.alone
@promises.FEWER_SLICES
def test_a_run_shrinks_to_the_free_capacity_and_grows_back_at_a_checkpoint(
    runs: Runs, name: str, python_image: str
) -> None:
    """Two of three pods fit on the node: the two slices and a holder. Each requests 35 % of the memory.

    Alone in the cluster, because the pods of other tests may request more than the remaining 30 %.
    """
    each = f"{allocatable_memory(runs.devcluster.kubectl) * 35 // 100}Mi"
    holder = pod("holder", pod_spec(python_image, "import time; time.sleep(10**6)", terminationGracePeriodSeconds=0))
    holder["spec"]["containers"][0]["resources"] = {"requests": {"memory": each}}
    runs.devcluster.kubectl.apply([holder], "--namespace", runs.namespace)
    wait_for_phase(runs.devcluster.kubectl, runs.namespace, "holder", "Running")
    elastic = {"minSlices": 1, "shrinkAfterSeconds": 4, "growAfterSeconds": 2}
    runs.apply(
        name,
        "rate=10",
        "save=50",
        accelerator={"type": "cpu", "slices": 2, "hostResources": {"memory": each}},
        recovery={"elastic": elastic, "gracePeriodSeconds": 5},
    )
    small = runs.training(name, attempt=2)
    assert (small["topology"]["slices"], small["placement"]["wantedSlices"]) == (1, 2)
    assert "have found no node" in small["placement"]["reason"]
    assert runs.condition(name, "Degraded")["status"] == "True"

    def probes(kind: str) -> list[str]:
        found = runs.api.items(kind, runs.namespace, f"halcyon.dev/run={name},halcyon.dev/role=probe")
        return [one["metadata"]["name"] for one in found]

    until(
        lambda: bool(probes("pod")),
        timeout_seconds=60,
        interval_seconds=INTERVAL_SECONDS,
        failure=lambda: runs.kubectl("describe", "jobset,job") + runs.kubectl("get", "events") + str(runs.status(name)),
    )
    assert runs.status(name)["attempt"] == 2
    runs.kubectl("delete", "pod", "holder", "--wait=false")
    room = runs.wait(
        name,
        "reported to have room",
        lambda status: status.get("placement", {}).get("roomSince") or status["attempt"] == 3,
    )
    whole = runs.training(name, attempt=3)
    assert whole["topology"]["slices"] == 2
    saved = room.get("checkpoint", {}).get("step", 0)  # no checkpoint yet, if there was room at once
    assert whole["history"][-1]["fromStep"] >= max(saved, 1), "it must grow at a checkpoint"
    assert [cause for _, _, cause in causes(whole)] == ["resized", "resized", ""]
    assert counts(whole) == {"resized": 2}
    assert runs.condition(name, "Degraded")["status"] == "False"
    until(
        lambda: not probes("jobset"),
        timeout_seconds=60,
        interval_seconds=INTERVAL_SECONDS,
        failure=lambda: str(probes("jobset")),
    )
    runs.wait_for_events(name, "Shrinking", "RoomFound", "Growing")


def test_a_run_takes_the_row_that_has_nodes_and_moves_to_a_better_one_at_a_checkpoint(runs: Runs, name: str) -> None:
    """No node has the label of the first row, until a user sets it."""
    (node,) = runs.devcluster.kubectl("get", "nodes", "--output=name").split()
    label, hosts = f"halcyon.test/{name}", {"hostResources": {"memory": "512Mi"}}
    other = {"accelerator": {"type": "cpu"}, "nodeSelector": {}}
    runs.apply(
        name,
        "rate=10",
        "save=50",
        accelerator={"type": "cpu", "slices": 2} | hosts,
        scheduling={"nodeSelector": {label: "yes"}},
        place={"otherwise": [other], "waitSeconds": 10, "by": "price"},
    )
    found = runs.training(name, attempt=2)
    assert (found["topology"]["slices"], found["placement"]["row"]) == (1, 1)
    try:
        runs.devcluster.kubectl("label", node, f"{label}=yes")
        moved = runs.training(name, attempt=3)
    finally:
        runs.devcluster.kubectl("label", node, f"{label}-")
    assert (moved["topology"]["slices"], moved["placement"].get("row", 0)) == (2, 0)
    assert moved["history"][-1]["fromStep"] >= 1, "it must go on from a checkpoint"
    assert [cause for _, _, cause in causes(moved)] == ["moved", "moved", ""]
    assert (counts(moved), moved["failuresWithoutCheckpoint"]) == ({"moved": 2}, 0)
    runs.wait_for_events(name, "PlaceChanged", "RoomFound")


def test_the_operator_was_denied_no_request_and_uses_little_memory(runs: Runs, operator: Operator) -> None:
    text = operator.metrics()
    refused = [line for line in text.splitlines() if 'code="403"' in line]
    # A quota rejects JobSets with 403 too (test_stops.py). Without the right to create JobSets no run of this file
    # would have trained.
    assert [line for line in refused if 'resource="jobsets",verb="post"' not in line] == []
    (resident,) = re.findall(r"^process_resident_memory_bytes (\S+)$", text, re.MULTILINE)
    print(f"operator: {float(resident) / 2**20:.0f} MiB resident")
    assert float(resident) < 150 * 2**20
    assert "Traceback" not in operator.log()
