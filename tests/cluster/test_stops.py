"""The reasons that stop or delay a run, and the message for the user: why, and what to do.

All runs are applied at once, and each test uses its own.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from halcyon_devcluster.waiting import until
from tests.cluster.scripted import INTERVAL_SECONDS, Runs, causes, counts, document
from tests.cluster.workloads import pod_spec
from tests.suite import promises

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

FATAL = {80: "BadConfiguration", 82: "NoValidCheckpoint", 83: "RunChanged", 84: "CheckpointRootTaken"}
CRASHES = [f"exit=1,step={20 + 10 * restart},restart={restart},attempt=1" for restart in range(3)]
ONE_HOST = {"accelerator": {"type": "cpu"}}
STOPPED: dict[str, tuple[list[str], dict[str, Any]]] = {
    **{f"exit-{code}": ([f"exit={code},step=5,attempt=1,say=so_it_is"], ONE_HOST) for code in FATAL},
    "unusable": (["exit=85,step=5,attempt=1,say=so_it_is"], ONE_HOST),
    "loop": (["exit=1,step=3,process=1,say=boom", "save=0", "rate=20"], {}),
    "progress": ([*CRASHES, "rate=20", "save=5"], ONE_HOST),
    "fenced": (["exit=81,step=5,attempt=1"], ONE_HOST),
    "unpulled": ([], ONE_HOST | {"image": "registry.invalid/none:1"}),
    "configmap": ([], ONE_HOST),
    "jobset": ([], ONE_HOST),
}
"""Script and spec of each run."""
TAKEN = {"configmap": "ConfigMap", "jobset": "JobSet"}


def foreign(kind: str, name: str, image: str) -> dict[str, Any]:
    """An object that the run does not own."""
    metadata = {"metadata": {"name": name}}
    if kind == "configmap":
        return {"apiVersion": "v1", "kind": "ConfigMap", "data": {"mine": "yes"}} | metadata
    job = {"name": "theirs", "template": {"spec": {"template": {"spec": pod_spec(image, "pass")}}}}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "spec": {"suspend": True, "replicatedJobs": [job]},
    } | metadata


@pytest.fixture(scope="module")
def stopped(runs: Runs, python_image: str) -> Iterator[dict[str, str]]:
    """The names of the runs in `STOPPED`, which are applied together. For two of them, a foreign object already has the
    name that they need."""
    names = {key: f"{key}-{secrets.token_hex(3)}" for key in STOPPED}
    theirs = [foreign(kind, f"{names[kind]}-1", python_image) for kind in TAKEN]
    runs.devcluster.kubectl.apply(theirs, "--namespace", runs.namespace)
    runs.apply_all(*(document(names[key], *script, **spec) for key, (script, spec) in STOPPED.items()))
    yield names
    runs.delete(*names.values())


@pytest.mark.parametrize("kind", TAKEN)
def test_a_name_in_use_is_reported_and_its_object_is_left_unchanged(
    runs: Runs, stopped: dict[str, str], kind: str
) -> None:
    name = stopped[kind]
    runs.stalled(name, "NameTaken")
    assert (
        f"{TAKEN[kind]} {name}-1 exists and is not this run's; remove it" in runs.condition(name, "Stalled")["message"]
    )
    found = runs.api.get(kind, runs.namespace, f"{name}-1")
    assert (found["metadata"].get("generation", 1), found["metadata"].get("labels")) == (1, None)
    assert found.get("data") == ({"mine": "yes"} if kind == "configmap" else None)
    remove_foreign(runs, kind, f"{name}-1")  # the last test of this file waits for the effect


def remove_foreign(runs: Runs, kind: str, name: str) -> None:
    """Delete a foreign object if it exists, but no object of a run."""
    runs.kubectl("delete", kind, f"--field-selector=metadata.name={name}", "--selector=!halcyon.dev/run")


@pytest.mark.parametrize("code", FATAL)
def test_a_reserved_exit_code_stops_the_run_until_its_spec_is_edited(
    runs: Runs, stopped: dict[str, str], code: int
) -> None:
    name = stopped[f"exit-{code}"]
    status = runs.stalled(name, FATAL[code])
    assert status["phase"] == "Failed"
    assert "so it is" in runs.condition(name, "Ready")["message"]
    assert runs.pods(name), "its pods must be kept for their logs"
    assert status["restarts"]["total"] == 0
    if code == 83:
        runs.patch(name, ttlSecondsAfterFinished=99999)
        generation = runs.get(name)["metadata"]["generation"]
        status = runs.wait(name, "seen", lambda status: status["observedGeneration"] == generation)
        assert (status["phase"], status["attempt"]) == ("Failed", 1), "this edit cannot have fixed the cause"
        runs.patch(name, recovery={"maxRestarts": 9})
        assert counts(runs.training(name, attempt=2)) == {"specChanged": 1}


@promises.CRASH_LOOP
def test_a_crash_loop_without_checkpoints_stops(runs: Runs, stopped: dict[str, str]) -> None:
    name = stopped["loop"]
    status = runs.stalled(name, "RestartsExhausted")
    assert (status["attempt"], counts(status), status["failuresWithoutCheckpoint"]) == (1, {"failed": 2}, 3)
    assert "boom" in runs.condition(name, "Stalled")["message"]


def test_crashes_with_checkpoints_in_between_do_not_stop_a_run(runs: Runs, stopped: dict[str, str]) -> None:
    status = runs.training(stopped["progress"], attempt=2)
    assert counts(status) == {"failed": 3}
    assert all(cause == "failed" for _, _, cause in causes(status)[:-1])


def test_a_fenced_attempt_is_followed_by_one_above_the_other_writer(runs: Runs, stopped: dict[str, str]) -> None:
    status = runs.training(stopped["fenced"], attempt=4)
    assert counts(status) == {"fenced": 1}, "the trainer reported that attempt 3 owns the root"


def test_a_root_that_cannot_be_used_is_tried_again_after_a_while(runs: Runs, stopped: dict[str, str]) -> None:
    status = runs.training(stopped["unusable"], attempt=2)
    assert counts(status) == {"rootUnusable": 1}
    assert "so it is" in status["history"][0]["message"]


def test_an_image_that_cannot_be_pulled_is_reported_and_replaced(runs: Runs, stopped: dict[str, str]) -> None:
    name = stopped["unpulled"]
    status = runs.wait(name, "reported", lambda _: runs.condition(name, "Ready").get("reason") == "ImagePullFailed")
    assert {c["type"]: c["status"] for c in status["conditions"]}["Stalled"] == "False"
    assert "registry.invalid/none:1" in runs.condition(name, "Ready")["message"]
    runs.kubectl(
        "patch", "trainingrun", name, "--type=json", "--patch", json.dumps([{"op": "remove", "path": "/spec/image"}])
    )
    runs.training(name, attempt=2)


def test_an_exceeded_quota_is_reported_and_waited_for(runs: Runs, name: str) -> None:
    kind = "count/jobsets.jobset.x-k8s.io"
    runs.kubectl("create", "quota", "none", f"--hard={kind}=0")
    has_status = "--output=jsonpath={.status.hard}"
    until(
        lambda: kind in runs.kubectl("get", "quota", "none", has_status),
        timeout_seconds=30,
        interval_seconds=INTERVAL_SECONDS,
        failure=lambda: "the quota is not in force",
    )
    try:
        runs.apply(name, **ONE_HOST)
        runs.wait(name, "reported", lambda _: runs.condition(name, "Ready").get("reason") == "CreateRefused")
        assert "exceeded quota: none" in runs.condition(name, "Ready")["message"]
    finally:
        runs.kubectl("delete", "quota", "none")
    assert runs.training(name)["attempt"] == 1


@pytest.mark.parametrize("kind", TAKEN)
def test_a_run_begins_once_its_name_is_free(runs: Runs, stopped: dict[str, str], kind: str) -> None:
    """The operator checks again within 30 seconds."""
    remove_foreign(runs, kind, f"{stopped[kind]}-1")
    runs.training(stopped[kind])
