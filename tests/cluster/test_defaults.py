"""Defaults in a real cluster: a short run trains with them, and does not change when they change."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from halcyon_api.generate.crd import definitions
from halcyon_devcluster import DevclusterError
from tests.cluster.conftest import DevCluster
from tests.cluster.operators import OperatorProcess
from tests.cluster.scripted import Runs, build_scripted_trainer, made_namespace
from tests.families import SMALL
from tests.suite import promises
from tests.suite.limits import limit

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

TEAM: dict[str, Any] = {
    "checkpoint": {"rootPrefix": "s3://nowhere/runs", "endpoint": "http://object-store.invalid:7070"},
    "recovery": {"maxRestarts": 2, "gracePeriodSeconds": 5},
    "scheduling": {"serviceAccountName": "trainer"},
    "telemetry": {"statusIntervalSeconds": 1},
}


@pytest.fixture(scope="module")
def runs(devcluster: DevCluster) -> Iterator[Runs]:
    found = definitions()
    devcluster.kubectl.apply(found)
    names = [f"crd/{one['metadata']['name']}" for one in found]
    devcluster.kubectl.await_established(*names)
    with made_namespace(devcluster, "defaults") as namespace:
        account = {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "trainer", "namespace": namespace},
        }
        devcluster.kubectl.apply([account])
        yield Runs(devcluster, namespace)


@pytest.fixture(scope="module", autouse=True)
def operator(runs: Runs, python_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorProcess]:
    trainer, folder = build_scripted_trainer(runs.devcluster, python_image), tmp_path_factory.mktemp("operator")
    found = OperatorProcess.start("operator", runs.devcluster.kubeconfig, runs.namespace, folder, trainerImage=trainer)
    found.await_ready()
    yield found
    found.stop()


def put(runs: Runs, spec: dict[str, Any]) -> str:
    """Apply defaults. Returns the API server's error if it rejects them, or ""."""
    frame = {
        "apiVersion": "halcyon.dev/v1alpha1",
        "kind": "TrainingRunDefaults",
        "metadata": {"name": "default"},
        "spec": spec,
    }
    try:
        runs.kubectl("apply", "--filename=-", stdin=yaml.safe_dump(frame))
    except DevclusterError as refused:
        return " ".join(str(refused).split())
    return ""


def short(name: str, **spec: Any) -> str:
    found = {
        "accelerator": {"type": "cpu"},
        "model": {**SMALL},
        "data": {"sources": [{"name": "script", "text": {"paths": ["script/rate=10"]}}]},
        "trainer": {"steps": 100_000, "batchSize": 8, "sequenceLength": 64},
    }
    return yaml.safe_dump(
        {"apiVersion": "halcyon.dev/v1alpha1", "kind": "TrainingRun", "metadata": {"name": name}, "spec": found | spec}
    )


def halcyon(runs: Runs, *arguments: str) -> tuple[int, str]:
    """Exit code and output of `kubectl-halcyon` in the namespace of the runs."""
    environment = os.environ | {"KUBECONFIG": str(runs.devcluster.kubeconfig), "COLUMNS": "160"}
    # A separate process: the Kubernetes client reads KUBECONFIG once, when it is first imported.
    command = [Path(sys.executable).with_name("kubectl-halcyon"), *arguments, "--namespace", runs.namespace]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=limit(240), check=False)
    return done.returncode, done.stdout + done.stderr


def pod(runs: Runs, name: str) -> dict[str, Any]:
    """Service account, checkpoint and recovery settings of a run with one pod, as its trainer reads them."""
    (found,) = runs.objects("pod", name)
    attempt = runs.status(name)["attempt"]
    data = runs.api.get("configmap", runs.namespace, f"{name}-{attempt}")["data"]
    document = yaml.safe_load(data["run.yaml"])["spec"]
    return {
        "account": found["spec"]["serviceAccountName"],
        "checkpoint": document["checkpoint"],
        "recovery": document["recovery"],
    }


def test_a_run_without_a_root_is_reported_and_starts_after_an_edit_sets_one(runs: Runs) -> None:
    """The namespace has no defaults yet."""
    runs.kubectl("apply", "--filename=-", stdin=short("bare", telemetry={"statusIntervalSeconds": 1}))
    runs.stalled("bare", "InvalidSpec")
    message = runs.condition("bare", "Ready")["message"]
    assert message.startswith(
        "spec.checkpoint.root: nothing says where the checkpoints of this run are kept; set it, or have checkpoint."
    )
    place = {"root": "s3://nowhere/bare", "endpoint": "http://object-store.invalid:7070"}
    runs.patch("bare", checkpoint=place)
    runs.training("bare")
    for change, sentence in (
        ({"root": None}, "checkpoint.root must not be added or removed once the run has begun"),
        ({"root": "s3://nowhere/other"}, "checkpoint.root must not change"),
    ):
        with pytest.raises(DevclusterError, match=sentence):
            runs.patch("bare", checkpoint=change)


@promises.DEFAULTS
def test_a_short_run_keeps_its_first_defaults_until_a_refresh_is_requested(runs: Runs, tmp_path: Path) -> None:
    assert put(runs, TEAM) == ""
    runs.kubectl("apply", "--filename=-", stdin=short("demo"))
    runs.training("demo")
    first = pod(runs, "demo")
    root = f"s3://nowhere/runs/{runs.namespace}/demo"
    assert (first["account"], first["checkpoint"]["root"]) == ("trainer", root)
    assert first["recovery"]["maxRestarts"] == 2
    record = runs.status("demo")["defaults"]
    assert record["sources"] == [{"namespace": runs.namespace, "name": "default", "generation": 1}]
    runs.wait_for_events("demo", "DefaultsTaken")

    # The commands show only the document that was applied.
    runs.kubectl("diff", "--filename=-", stdin=short("demo"))
    file = tmp_path / "run.yaml"
    file.write_text(short("demo"))
    assert halcyon(runs, "diff", "demo", "--filename", str(file)) == (0, "nothing differs\n")
    file.write_text(short("demo", recovery={"maxRestarts": 5}))
    code, output = halcyon(runs, "diff", "demo", "--filename", str(file))
    assert code == 1
    assert re.search(r"recovery.maxRestarts +2 +5 +live", output)
    assert f" of {runs.namespace}/default" in " ".join(halcyon(runs, "status", "demo")[1].split())

    # With other defaults the run does not change, not even with the next attempt.
    other = copy.deepcopy(TEAM)
    other["checkpoint"]["rootPrefix"] = "s3://elsewhere"
    other["recovery"] |= {"maxRestarts": 9}
    other["scheduling"] = {"serviceAccountName": "default"}
    assert put(runs, other) == ""
    runs.kubectl("delete", "jobset", "demo-1", "--wait=false")
    runs.training("demo", attempt=2)
    assert pod(runs, "demo") == first
    assert runs.status("demo")["defaults"] == record

    # After `refresh` the run takes the new defaults at a checkpoint; its root stays.
    assert halcyon(runs, "refresh", "demo")[0] == 0
    runs.training("demo", attempt=3)
    after = pod(runs, "demo")
    assert (after["account"], after["checkpoint"], after["recovery"]["maxRestarts"]) == (
        "default",
        first["checkpoint"],
        9,
    )
    status = runs.status("demo")
    assert status["defaults"]["sources"][0]["generation"] == 2
    assert status["history"][-2]["cause"] == "specChanged"
    assert status["checkpoint"]["step"] >= status["history"][-1]["fromStep"] > 0
    runs.kubectl("diff", "--filename=-", stdin=short("demo"))
