"""Runs that run one after the other, on the real API server: one file, one apply."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from halcyon_demo.documents import EXAMPLES, load
from halcyon_demo.install import moved
from halcyon_demo.training import Training
from halcyon_devcluster import DevclusterError
from halcyon_devcluster.waiting import until
from tests.cluster.scripted import Runs
from tests.cluster.whole_path import WholePath
from tests.families import SMALL

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def task_run(name: str, after: str = "", steps: int = 20, **spec: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "accelerator": {"type": "cpu"},
        "model": {**SMALL},
        "data": {"sources": [{"name": "script", "text": {"paths": ["script/rate=10"]}}]},
        "trainer": {"steps": steps, "batchSize": 8, "sequenceLength": 64},
        "checkpoint": {"root": f"s3://nowhere/{name}", "endpoint": "http://object-store.invalid:7070"},
        "telemetry": {"statusIntervalSeconds": 1},
        **({"after": {"run": after}} if after else {}),
    }
    return {
        "apiVersion": "halcyon.dev/v1alpha1",
        "kind": "TrainingRun",
        "metadata": {"name": name},
        "spec": found | spec,
    }


def message(runs: Runs, name: str) -> str:
    return runs.condition(name, "Ready").get("message", "")


def test_one_apply_runs_the_tasks_in_their_order(runs: Runs) -> None:
    with pytest.raises(DevclusterError, match=r"spec\.after\.run is the run itself"):
        runs.apply_all(task_run("self", "self"))
    # The last one is first in the file. The data run is suspended, so that the other run must wait for it.
    runs.apply_all(
        task_run("train", "tokens"),
        task_run("tokens", suspend=True, task="data"),
        task_run("one", "two"),
        task_run("two", "one"),
    )
    runs.wait(
        "train",
        "waiting",
        lambda _: message(runs, "train").startswith("waits for run tokens to succeed, which is Suspended"),
    )
    assert (runs.status("train")["phase"], runs.pods("train")) == ("Pending", [])
    runs.stalled("one", "AwaitedRunCycle")
    runs.stalled("two", "AwaitedRunCycle")
    assert "this run waits for two, two for this run" in message(runs, "one")
    runs.patch("tokens", suspend=False)
    tokens, train = runs.in_phase("tokens", "Succeeded"), runs.in_phase("train", "Succeeded")
    assert train["startedAt"] >= tokens["finishedAt"]
    runs.patch("one", after=None)
    runs.in_phase("two", "Succeeded")
    runs.delete("train", "tokens", "one", "two")


def evaluated(training: Training) -> int:
    """Number of batches in a run's status."""
    run = training.run
    return run.status.progress.step if run is not None and run.status.progress is not None else 0


@pytest.mark.variant
@pytest.mark.xdist_group("path")
def test_the_example_builds_tokens_trains_on_them_and_evaluates(path: WholePath) -> None:
    """The example file with fewer steps, real trainers, and an eviction of the evaluation."""
    documents = moved(load(EXAMPLES / "tasks.yaml"), path.place)
    for document in documents:
        document["spec"]["trainer"] |= {"steps": 20}
    documents[1]["spec"]["trainer"]["evaluation"] = {"everySteps": 20, "batches": 1000}
    documents[2]["spec"]["trainer"]["batchSize"] = 2  # so that it lasts until it is evicted
    documents[2]["spec"]["telemetry"] = {"statusIntervalSeconds": 1}
    data, train, evaluate = (path.training_of(document) for document in documents)
    path.devcluster.kubectl("apply", "--filename=-", stdin=yaml.safe_dump_all(documents))
    data.wait_for_phase("Succeeded")
    trained, log = path.finish(train)
    until(lambda: evaluated(evaluate) > 0, timeout_seconds=120, failure=lambda: f"no batch is reported: {evaluate.run}")
    evaluate.evict(0)
    status, lines = path.finish(evaluate)
    (logged,) = [line.fields for line in log if line.event == "evaluation"]
    found = {line.fields.get("source"): line.fields for line in lines if line.event == "evaluation"}
    assert found["source"]["sequences"] == logged["sequences"], "it must be all that the training held out"
    assert found["source"]["loss"] == pytest.approx(logged["loss"], rel=1e-5), (
        "half the devices, so equal but not bitwise"
    )
    assert found["documentation"]["loss"] > 0
    progress = status.progress
    assert progress is not None
    assert progress.evaluated is not None
    assert (progress.evaluated.run, progress.evaluated.step) == ("tasks-train", 20)
    assert trained.checkpoint is not None
    assert progress.evaluated.path == trained.checkpoint.path
    assert [one.source for one in progress.evaluated.sources] == ["source", "documentation"]
    assert progress.step == progress.steps > 0
    assert progress.evaluation_loss == pytest.approx(found[None]["loss"], abs=1e-4)
    assert status.checkpoint is None, "an evaluation saves no checkpoint"
    assert status.restarts.failed == 0
    for group in status.history:
        # A process group starts after the batches of all sources that neither it nor a later one evaluates.
        own = [line for line in lines if line.event == "evaluation" and line.group >= (group.attempt, group.restart)]
        sequences = {line.fields["source"]: line.fields["sequences"] for line in own if "source" in line.fields}
        batches = sum(-(-count // documents[2]["spec"]["trainer"]["batchSize"]) for count in sequences.values())
        assert group.from_step == progress.steps - batches
    with path.root("tasks-evaluate") as root:
        kept = json.loads(bytes(root.get("evaluation.json").bytes()))
    assert (kept["finished"], kept["loss"]) == (True, found[None]["loss"])
    for training in (data, train, evaluate):
        training.delete()
