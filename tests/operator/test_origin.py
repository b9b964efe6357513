"""A run with `from` gets the other run's checkpoint root, until it has a checkpoint of its own."""

from __future__ import annotations

from typing import Any

import yaml

from halcyon_operator.decide.reconcile import reconcile
from tests.operator.builders import at, head, observed, run
from tests.operator.simulation import RUN, SimulatedCluster
from tests.operator.test_after import condition as condition_of
from tests.operator.test_attempts import condition, kinds
from tests.operator.test_defaults import ready

CLONE = {"from": {"run": "base", "step": 40}}
BASE = RUN.replace("/demo", "/base")


def base(root: str = "s3://bucket/base") -> dict[str, Any]:
    return run(name="base", checkpoint__root=root)


def document_of(cluster: SimulatedCluster) -> dict[str, Any]:
    (config_map,) = (thing for place, thing in cluster.api.objects.items() if "/configmaps/" in place)
    return yaml.safe_load(config_map["data"]["run.yaml"])


def test_a_clone_waits_for_its_source_run_and_then_gets_its_root() -> None:
    cluster = SimulatedCluster(run(**CLONE))
    cluster.settle()
    conditions = {entry["type"]: entry for entry in cluster.status["conditions"]}
    assert (conditions["Stalled"]["status"], conditions["Stalled"]["reason"]) == ("True", "OriginUnknown")
    assert "there is no TrainingRun base in namespace default" in conditions["Ready"]["message"]
    assert (cluster.jobset, cluster.status["attempt"]) == (None, 0)
    cluster.api.objects[BASE] = base()
    cluster.settle()
    assert document_of(cluster)["spec"]["from"] == {"run": "base", "step": 40, "root": "s3://bucket/base"}
    assert cluster.api.objects[RUN]["spec"]["from"] == CLONE["from"], "the operator must not write the spec"


def test_a_clone_with_its_own_checkpoint_does_not_need_its_source_run() -> None:
    cluster = SimulatedCluster(run(**CLONE))
    cluster.api.objects[BASE] = base()
    cluster.settle()
    cluster.train(45, resumed=40)
    cluster.head = head(40)
    cluster.settle()
    assert cluster.status["history"][-1]["fromStep"] == 40
    del cluster.api.objects[BASE]
    cluster.delete_jobset()
    cluster.settle()
    assert (cluster.status["attempt"], cluster.status["phase"]) == (2, "Restarting")
    assert "root" not in document_of(cluster)["spec"]["from"]


def test_a_model_in_files_needs_no_other_run() -> None:
    origin = {"huggingFace": {"path": "s3://bucket/models/base"}}
    cluster = SimulatedCluster(run(**{"from": origin}))
    cluster.settle()
    assert document_of(cluster)["spec"]["from"] == origin


def test_a_clone_with_a_named_root_does_not_need_its_source_run() -> None:
    named = run(**{"from": {"run": "base", "root": "s3://bucket/archive"}})
    cluster = SimulatedCluster(named)
    cluster.settle()
    assert document_of(cluster)["spec"]["from"]["root"] == "s3://bucket/archive"


def test_a_root_on_a_volume_is_out_of_reach() -> None:
    decision = reconcile(observed(run(**CLONE), origin_root="file:///checkpoints/base"), at(60))
    assert (condition(decision, "Stalled"), kinds(decision)) == (("True", "OriginUnknown"), [])
    assert "halcyon checkpoints copy" in decision.status.condition("Stalled").message


def test_a_clone_waits_until_its_source_run_has_taken_its_root_from_defaults() -> None:
    cluster = SimulatedCluster(run(**CLONE))
    other = base()
    del other["spec"]["checkpoint"]
    for phase, stalled in (("Pending", False), ("Failed", True), ("Suspended", False)):
        cluster.api.objects[BASE] = other | {"status": {"phase": phase, "attempt": 0}}
        cluster.settle()
        assert condition_of(cluster, "Stalled") == (("True", "OriginUnknown") if stalled else ("False", "NotStalled"))
        assert "base" in ready(cluster)
        assert "there is no TrainingRun" not in ready(cluster)
        assert (cluster.jobset, cluster.status["attempt"]) == (None, 0)
    assert (
        ready(cluster)
        == "spec.from.run: waits for run base to begin, which is Suspended; until then, it has no checkpoint root"
    )
    taken = {"name": "default", "values": {"checkpoint.rootPrefix": '"s3://team"'}}
    cluster.api.objects[BASE] = other | {"status": {"phase": "Running", "attempt": 1, "defaults": taken}}
    cluster.settle()
    assert document_of(cluster)["spec"]["from"]["root"] == "s3://team/default/base"


def test_runs_that_wait_for_each_other_do_not_copy_each_others_messages() -> None:
    other = base()
    del other["spec"]["checkpoint"]
    conditions = [
        {"type": "Ready", "status": "False", "reason": "AwaitsRun", "message": "waits for run demo to succeed"}
    ]
    conditions[0]["lastTransitionTime"] = "2026-11-20T12:00:00Z"
    for phase in ("Pending", "Failed"):
        cluster = SimulatedCluster(run(**CLONE))
        cluster.api.objects[BASE] = other | {"status": {"phase": phase, "attempt": 0, "conditions": conditions}}
        cluster.settle()
        assert "waits for run demo" not in ready(cluster)
