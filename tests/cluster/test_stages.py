"""Runs that come one after the other, on the real API server: one file, one apply."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from halcyon_api.crd import definitions
from halcyon_devcluster import DevclusterError
from tests.cluster.conftest import DevCluster
from tests.cluster.operators import OperatorProcess
from tests.cluster.scripted import Runs, build_scripted_trainer

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]


@pytest.fixture
def runs(devcluster: DevCluster, namespace: str) -> Runs:
    found = definitions()
    devcluster.kubectl.apply(found)
    devcluster.kubectl("wait", "--for=condition=Established", *(f"crd/{one['metadata']['name']}" for one in found), "--timeout=60s")
    return Runs(devcluster, namespace)


def stage(name: str, after: str = "", steps: int = 20, **spec: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "accelerator": {"type": "cpu"},
        "model": {"llama": {"layers": 2, "hiddenSize": 64, "intermediateSize": 128, "heads": 4}},
        "data": {"sources": [{"name": "script", "text": {"paths": ["script/rate=10"]}}]},
        "trainer": {"steps": steps, "batchSize": 8, "sequenceLength": 64},
        "checkpoint": {"root": f"s3://nowhere/{name}", "endpoint": "http://object-store.invalid:7070"},
        "telemetry": {"statusIntervalSeconds": 1},
        **({"after": {"run": after}} if after else {}),
    }
    return {"apiVersion": "halcyon.dev/v1alpha1", "kind": "TrainingRun", "metadata": {"name": name}, "spec": found | spec}


def message(runs: Runs, name: str) -> str:
    return runs.condition(name, "Ready").get("message", "")


def test_one_apply_runs_the_stages_in_their_order(runs: Runs, python_image: str, tmp_path: Path) -> None:
    with pytest.raises(DevclusterError, match=r"spec\.after\.run is the run itself"):
        runs.kubectl("apply", "--filename=-", stdin=yaml.safe_dump(stage("self", "self")))
    trainer = build_scripted_trainer(runs.devcluster, python_image)
    operator = OperatorProcess.start("operator", runs.devcluster.kubeconfig, runs.namespace, tmp_path, trainer_image=trainer)
    try:
        operator.await_ready()
        # The last one first; the tokens are suspended, so that what waits for them is seen to wait.
        file = [stage("train", "tokens"), stage("tokens", suspend=True, stage="data"), stage("one", "two"), stage("two", "one")]
        runs.kubectl("apply", "--filename=-", stdin=yaml.safe_dump_all(file))
        runs.wait("train", "waiting", lambda _: message(runs, "train").startswith("waits for run tokens to succeed, which is Suspended"))
        assert (runs.status("train")["phase"], runs.pods("train")) == ("Pending", [])
        runs.stalled("one", "AwaitedRunCycle")
        runs.stalled("two", "AwaitedRunCycle")
        assert "this run waits for two, two for this run" in message(runs, "one")
        runs.patch("tokens", suspend=False)
        tokens, train = runs.in_phase("tokens", "Succeeded"), runs.in_phase("train", "Succeeded")
        assert train["startedAt"] >= tokens["finishedAt"]
        runs.patch("one", after=None)
        runs.in_phase("two", "Succeeded")
    finally:
        operator.stop()
