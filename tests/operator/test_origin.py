"""A run that begins from another one is told where that one's checkpoints are, until it has one of its own."""

from __future__ import annotations

from typing import Any

import yaml

from halcyon_operator.reconcile import reconcile
from tests.operator.builders import at, head, observed, run
from tests.operator.simulation import RUN, World
from tests.operator.test_attempts import condition, kinds

CLONE = {"from": {"run": "base", "step": 40}}
BASE = RUN.replace("/demo", "/base")


def base(root: str = "s3://bucket/base") -> dict[str, Any]:
    return run(name="base", checkpoint__root=root)


def document_of(world: World) -> dict[str, Any]:
    (config_map,) = (thing for place, thing in world.api.objects.items() if "/configmaps/" in place)
    return yaml.safe_load(config_map["data"]["run.yaml"])


def test_it_waits_for_the_other_run_and_then_gets_its_root() -> None:
    world = World(run(**CLONE))
    world.settle()
    conditions = {entry["type"]: entry for entry in world.status["conditions"]}
    assert (conditions["Stalled"]["status"], conditions["Stalled"]["reason"]) == ("True", "OriginUnknown")
    assert "there is no TrainingRun base in namespace default" in conditions["Ready"]["message"]
    assert (world.jobset, world.status["attempt"]) == (None, 0)
    world.api.objects[BASE] = base()
    world.settle()
    assert document_of(world)["spec"]["from"] == {"run": "base", "step": 40, "root": "s3://bucket/base"}
    assert world.api.objects[RUN]["spec"]["from"] == CLONE["from"], "the operator never writes the spec"


def test_once_it_has_a_checkpoint_the_other_run_may_go() -> None:
    world = World(run(**CLONE))
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


def test_a_root_that_is_named_needs_no_other_run() -> None:
    named = run(**{"from": {"run": "base", "root": "s3://bucket/archive"}})
    world = World(named)
    world.settle()
    assert document_of(world)["spec"]["from"]["root"] == "s3://bucket/archive"


def test_a_root_on_a_volume_is_out_of_reach() -> None:
    decision = reconcile(observed(run(**CLONE), origin_root="file:///checkpoints/base"), at(60))
    assert (condition(decision, "Stalled"), kinds(decision)) == (("True", "OriginUnknown"), [])
    assert "halcyon checkpoints copy" in decision.status.condition("Stalled").message
