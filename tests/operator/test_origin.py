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


def document_of(world: SimulatedCluster) -> dict[str, Any]:
    (config_map,) = (thing for place, thing in world.api.objects.items() if "/configmaps/" in place)
    return yaml.safe_load(config_map["data"]["run.yaml"])


def test_a_clone_waits_for_its_source_run_and_then_gets_its_root() -> None:
    world = SimulatedCluster(run(**CLONE))
    world.settle()
    conditions = {entry["type"]: entry for entry in world.status["conditions"]}
    assert (conditions["Stalled"]["status"], conditions["Stalled"]["reason"]) == ("True", "OriginUnknown")
    assert "there is no TrainingRun base in namespace default" in conditions["Ready"]["message"]
    assert (world.jobset, world.status["attempt"]) == (None, 0)
    world.api.objects[BASE] = base()
    world.settle()
    assert document_of(world)["spec"]["from"] == {"run": "base", "step": 40, "root": "s3://bucket/base"}
    assert world.api.objects[RUN]["spec"]["from"] == CLONE["from"], "the operator must not write the spec"


def test_a_clone_with_its_own_checkpoint_does_not_need_its_source_run() -> None:
    world = SimulatedCluster(run(**CLONE))
    world.api.objects[BASE] = base()
    world.settle()
    world.train(45, resumed=40)
    world.head = head(40)
    world.settle()
    assert world.status["history"][-1]["fromStep"] == 40
    del world.api.objects[BASE]
    world.delete_jobset()
    world.settle()
    assert (world.status["attempt"], world.status["phase"]) == (2, "Restarting")
    assert "root" not in document_of(world)["spec"]["from"]


def test_a_model_in_files_needs_no_other_run() -> None:
    origin = {"huggingFace": {"path": "s3://bucket/models/base"}}
    world = SimulatedCluster(run(**{"from": origin}))
    world.settle()
    assert document_of(world)["spec"]["from"] == origin


def test_a_clone_with_a_named_root_does_not_need_its_source_run() -> None:
    named = run(**{"from": {"run": "base", "root": "s3://bucket/archive"}})
    world = SimulatedCluster(named)
    world.settle()
    assert document_of(world)["spec"]["from"]["root"] == "s3://bucket/archive"


def test_a_root_on_a_volume_is_out_of_reach() -> None:
    decision = reconcile(observed(run(**CLONE), origin_root="file:///checkpoints/base"), at(60))
    assert (condition(decision, "Stalled"), kinds(decision)) == (("True", "OriginUnknown"), [])
    assert "halcyon checkpoints copy" in decision.status.condition("Stalled").message


def test_a_clone_waits_until_its_source_run_has_taken_its_root_from_defaults() -> None:
    world = SimulatedCluster(run(**CLONE))
    other = base()
    del other["spec"]["checkpoint"]
    for phase, stalled in (("Pending", False), ("Failed", True), ("Suspended", False)):
        world.api.objects[BASE] = other | {"status": {"phase": phase, "attempt": 0}}
        world.settle()
        assert condition_of(world, "Stalled") == (("True", "OriginUnknown") if stalled else ("False", "NotStalled"))
        assert "base" in ready(world)
        assert "there is no TrainingRun" not in ready(world)
        assert (world.jobset, world.status["attempt"]) == (None, 0)
    assert ready(world) == "spec.from.run: waits for run base to begin, which is Suspended; until then, it has no checkpoint root"
    taken = {"name": "default", "values": {"checkpoint.rootPrefix": '"s3://team"'}}
    world.api.objects[BASE] = other | {"status": {"phase": "Running", "attempt": 1, "defaults": taken}}
    world.settle()
    assert document_of(world)["spec"]["from"]["root"] == "s3://team/default/base"


def test_runs_that_wait_for_each_other_do_not_copy_each_others_messages() -> None:
    other = base()
    del other["spec"]["checkpoint"]
    conditions = [{"type": "Ready", "status": "False", "reason": "AwaitsRun", "message": "waits for run demo to succeed"}]
    conditions[0]["lastTransitionTime"] = "2026-11-20T12:00:00Z"
    for phase in ("Pending", "Failed"):
        world = SimulatedCluster(run(**CLONE))
        world.api.objects[BASE] = other | {"status": {"phase": phase, "attempt": 0, "conditions": conditions}}
        world.settle()
        assert "waits for run demo" not in ready(world)
