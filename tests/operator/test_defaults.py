"""A run takes its defaults once, with its first attempt. Later edits of the defaults do not change it."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from halcyon_api import names
from halcyon_operator.observe.defaults import root_of_run
from halcyon_operator.observe.runs import parse_run_view
from tests.operator.builders import defaults, head, run
from tests.operator.simulation import RUN, SYSTEM, SimulatedCluster
from tests.operator.test_crashes import finish

TEAM: dict[str, Any] = {
    "image": "team.example/trainer:1",
    "checkpoint__rootPrefix": "s3://team/runs",
    "checkpoint__endpoint": "http://store.team:7070",
    "scheduling__serviceAccountName": "trainer",
    "recovery__maxRestarts": 7,
}
TOKEN: dict[str, Any] = {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}
REFRESH = names.ANNOTATION_REFRESH_DEFAULTS


def put(world: SimulatedCluster, **arguments: Any) -> None:
    """Apply defaults."""
    document = defaults(**arguments)
    namespace, name = document["metadata"]["namespace"], document["metadata"]["name"]
    world.api.objects[f"/apis/halcyon.dev/v1alpha1/namespaces/{namespace}/trainingrundefaults/{name}"] = document


def short(**spec: Any) -> dict[str, Any]:
    return run(**{"checkpoint": ..., "recovery": ..., **spec})


def begun(*, train: bool = True, **arguments: Any) -> SimulatedCluster:
    """A short run whose first attempt trains with the team's defaults."""
    world = SimulatedCluster(short(**arguments))
    put(world, **TEAM)
    world.settle()
    if train:
        world.train(50)
        world.settle()
    return world


def trained_with(world: SimulatedCluster) -> dict[str, Any]:
    """The document in the ConfigMap of the current attempt's pods."""
    name = f"demo-{world.status['attempt']}"
    (config_map,) = (thing for place, thing in world.api.objects.items() if place.endswith(f"/configmaps/{name}"))
    return yaml.safe_load(config_map["data"]["run.yaml"])["spec"]


def container(world: SimulatedCluster) -> dict[str, Any]:
    assert world.jobset is not None
    return world.jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]


def ready(world: SimulatedCluster) -> str:
    return next(entry["message"] for entry in world.status["conditions"] if entry["type"] == "Ready")


def test_a_short_document_trains_with_the_defaults_of_its_namespace_and_stays_short() -> None:
    world = begun()
    spec = trained_with(world)
    assert (spec["checkpoint"]["root"], spec["checkpoint"]["endpoint"]) == ("s3://team/runs/default/demo", "http://store.team:7070")
    assert (spec["telemetry"]["port"], spec["checkpoint"]["keep"]) == (9400, 2), "built-in defaults are written out for the trainer"
    assert (container(world)["serviceAccountName"], container(world)["containers"][0]["image"]) == ("trainer", "team.example/trainer:1")
    assert world.api.objects[RUN]["spec"] == short()["spec"], "the operator never writes the spec"
    assert world.status["defaults"] == {
        "name": "default",
        "request": "",
        "sources": [{"namespace": "default", "name": "default", "generation": 1}],
        "values": {
            "image": '"team.example/trainer:1"',
            "checkpoint.rootPrefix": '"s3://team/runs"',
            "checkpoint.endpoint": '"http://store.team:7070"',
            "recovery.maxRestarts": "7",
            "scheduling.serviceAccountName": '"trainer"',
        },
    }
    assert root_of_run(world.api.objects[RUN]) == "s3://team/runs/default/demo"
    finish(world)


def test_editing_or_deleting_the_defaults_does_not_change_a_started_run() -> None:
    world = begun()
    before, status = trained_with(world), dict(world.status)
    assert before["recovery"]["maxRestarts"] == 7
    put(world, **(TEAM | {"image": "other.example/trainer:2", "checkpoint__rootPrefix": "s3://elsewhere", "recovery__maxRestarts": 1}))
    world.settle()
    assert (world.status["attempt"], world.status["attemptSpecHash"]) == (1, status["attemptSpecHash"])
    world.delete_jobset()
    world.settle()
    assert (world.status["attempt"], trained_with(world), world.status["defaults"]) == (2, before, status["defaults"])
    for place in [place for place in world.api.objects if "/trainingrundefaults/" in place]:
        del world.api.objects[place]
    world.edit(suspend=True)
    world.settle()
    world.edit(suspend=False)
    world.settle()
    assert (world.status["attempt"], trained_with(world)) == (3, before | {"suspend": False})
    world.train(60)
    world.settle()
    world.edit(ttlSecondsAfterFinished=9)
    world.settle()
    assert (world.status["attempt"], world.status["defaults"]) == (3, status["defaults"]), "an ordinary edit must not take new defaults"


def test_requested_defaults_take_effect_at_a_checkpoint_and_keep_the_root() -> None:
    world = begun()
    put(world, generation=2, **(TEAM | {"image": "team.example/trainer:2", "checkpoint__rootPrefix": "s3://elsewhere"}))
    world.annotate("now", REFRESH)
    world.settle()
    assert world.asked, "the trainer must save first"
    assert (world.status["attempt"], world.status["edit"]["fields"]) == (1, ["image"])
    assert world.status["defaults"]["request"] == "", "the record must have the defaults that the attempt was made from"
    world.head = head(50, epoch=(1, 0))
    world.settle()
    assert world.status["attempt"] == 2
    assert trained_with(world)["image"] == "team.example/trainer:2"
    checkpoint = trained_with(world)["checkpoint"]
    assert (checkpoint["root"], checkpoint["endpoint"]) == ("s3://team/runs/default/demo", "http://store.team:7070")
    assert (world.status["defaults"]["request"], world.status["defaults"]["sources"][0]["generation"]) == ("now", 2)
    put(world, generation=3, **(TEAM | {"image": "team.example/trainer:3"}))
    world.settle()
    assert (world.status["attempt"], trained_with(world)["image"]) == (2, "team.example/trainer:2"), (
        "one request must take the defaults once"
    )
    finish(world)


def test_live_fields_of_requested_defaults_are_in_force_at_once() -> None:
    world = begun()
    put(world, generation=2, **(TEAM | {"recovery__maxRestarts": 2, "ttlSecondsAfterFinished": 5}))
    world.annotate("now", REFRESH)
    world.settle()
    assert (world.status["attempt"], world.status["defaults"]["request"]) == (1, "now")
    assert world.status["inForce"]["recovery.maxRestarts"] == "2"
    put(world, generation=3, **TEAM)
    world.settle()
    assert world.status["inForce"]["recovery.maxRestarts"] == "2"


def test_run_before_namespace_before_cluster_before_built_in() -> None:
    world = SimulatedCluster(short(scheduling={"nodeSelector": {"pool": "mine"}}, recovery={"gracePeriodSeconds": 9}))
    put(world, **(TEAM | {"scheduling__nodeSelector": {"pool": "team", "zone": "b"}}))
    cluster = {
        "image": "cluster.example/trainer:1",
        "recovery__maxRestarts": 1,
        "recovery__gracePeriodSeconds": 3,
        "checkpoint__rootPrefix": "s3://cluster",
        "checkpoint__region": "nowhere-1",
        "scheduling__nodeSelector": {"zone": "c", "disk": "ssd"},
        "scheduling__priorityClassName": "low",
    }
    put(world, namespace=SYSTEM, **cluster)
    world.settle()
    view = parse_run_view(world.api.objects[RUN])
    assert view.spec is not None
    scheduling, recovery = view.spec.scheduling, view.spec.recovery
    assert scheduling.node_selector == {"pool": "mine", "zone": "b", "disk": "ssd"}
    assert (scheduling.priority_class_name, view.spec.image) == ("low", "team.example/trainer:1")
    assert (recovery.grace_period_seconds, recovery.max_restarts, recovery.step_timeout_seconds) == (9, 7, 60)
    assert view.spec.checkpoint.region is None, "the cluster's settings are for another store than the team's"
    assert [source["namespace"] for source in world.status["defaults"]["sources"]] == ["default", SYSTEM]


def test_a_name_selects_defaults_and_a_level_without_that_name_gives_its_default() -> None:
    world = SimulatedCluster(short(defaults="large"))
    put(world, **TEAM)
    put(world, namespace=SYSTEM, name="large", image="large.example/trainer:1", scheduling__priorityClassName="large")
    put(world, namespace=SYSTEM, scheduling__priorityClassName="plain")
    world.settle()
    assert [source["name"] for source in world.status["defaults"]["sources"]] == ["default", "large"]
    assert container(world)["priorityClassName"] == "large"
    world.train(50)
    world.settle()
    world.edit(defaults="default")
    world.settle()
    world.head = head(50, epoch=(1, 0))
    world.settle()
    assert (world.status["attempt"], container(world)["priorityClassName"]) == (2, "plain"), "another name must take other defaults"


def test_an_unknown_name_is_reported_in_one_sentence_and_waited_for() -> None:
    world = SimulatedCluster(run(defaults="larg"))
    put(world, **TEAM)
    world.settle()
    sentence = f"spec.defaults: there is no TrainingRunDefaults larg in namespace default nor {SYSTEM}; correct the name, or leave it out"
    assert (world.status["attempt"], ready(world)) == (0, sentence)
    put(world, name="larg", **TEAM)
    world.settle()
    assert world.status["attempt"] == 1


def test_an_empty_name_selects_no_defaults() -> None:
    world = SimulatedCluster(run(defaults=""))
    put(world, **TEAM)
    world.settle()
    assert "image" not in trained_with(world)
    assert world.status["defaults"] == {"name": "", "request": "", "sources": [], "values": {}}


def test_a_missing_root_is_reported_in_one_sentence_and_waited_for() -> None:
    world = SimulatedCluster(short())
    world.settle()
    assert (world.status["attempt"], ready(world)) == (
        0,
        "spec.checkpoint.root: nothing says where the checkpoints of this run are kept; set it, or have checkpoint.rootPrefix set in the "
        "TrainingRunDefaults of its namespace",
    )
    put(world, **TEAM)
    world.settle()
    assert trained_with(world)["checkpoint"]["root"] == "s3://team/runs/default/demo"


def test_defaults_that_do_not_fit_the_run_are_reported_and_training_continues() -> None:
    world = begun()
    put(world, **(TEAM | {"scheduling__nodeSelector": {"no key": "x"}}))
    world.annotate("now", REFRESH)
    world.settle()
    assert "is no key of a label" in ready(world)
    assert world.status["attempt"] == 1
    assert world.jobset is not None
    put(world, **(TEAM | {"image": "not an image"}))
    world.settle()
    assert "TrainingRunDefaults default/default: spec.image: " in ready(world)
    put(world, **TEAM)
    world.settle()
    assert (world.status["attempt"], world.status["phase"], world.status["defaults"]["request"]) == (1, "Running", "now")


def test_a_started_run_without_a_record_takes_no_defaults() -> None:
    world = SimulatedCluster(run())
    world.settle()
    world.train(50)
    world.settle()
    del world.api.objects[RUN]["status"]["defaults"]
    put(world, **TEAM)
    world.settle()
    assert (world.status["attempt"], "image" in trained_with(world)) == (1, False)
    world.delete_jobset()
    world.settle()
    assert (world.status["attempt"], "image" in trained_with(world)) == (2, False)


@pytest.mark.parametrize("fault", ["crash before", "crash after", "conflict", "refuse", "lose the answer"])
@pytest.mark.parametrize("write", [1, 2, 3, 4])
def test_a_run_takes_one_state_of_the_defaults_despite_crashes_of_the_operator(write: int, fault: str) -> None:
    world = SimulatedCluster(short(), {write: fault})
    put(world, **TEAM)
    edited: list[int] = []
    look = world.reconcile_once

    async def edit_defaults_once() -> None:
        await look()
        if world.status.get("attempt", 0) > 0 and not edited:
            edited.append(world.api.writes)
            put(world, **(TEAM | {"image": "other.example/trainer:2"}))

    world.reconcile_once = edit_defaults_once  # type: ignore[method-assign]
    world.settle()
    assert edited
    assert trained_with(world)["image"] == "team.example/trainer:1", "the recorded defaults must stay, whatever happened later"
    assert world.status["attempt"] == 1


def test_a_run_that_begins_from_one_with_defaults_finds_its_root() -> None:
    world = begun(train=False)
    other = world.api.objects[RUN]
    clone = SimulatedCluster(run(**{"from": {"run": "base"}}))
    clone.api.objects[RUN.replace("/demo", "/base")] = other | {"metadata": other["metadata"] | {"name": "base"}}
    clone.settle()
    assert trained_with(clone)["from"]["root"] == "s3://team/runs/default/base"


def test_variables_come_from_defaults_and_the_run_wins() -> None:
    world = SimulatedCluster(short(env=[{"name": "NCCL_DEBUG", "value": "INFO"}]))
    put(world, **TEAM, env=[{"name": "NCCL_DEBUG", "value": "WARN"}, {"name": "XLA_FLAGS", "value": "--team"}])
    put(world, namespace=SYSTEM, env=[{"name": "XLA_FLAGS", "value": "--all"}, TOKEN])
    world.settle()
    assert world.jobset is not None
    container = world.jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]
    found = {entry["name"]: entry for entry in container["env"]}
    assert (found["NCCL_DEBUG"]["value"], found["XLA_FLAGS"]["value"]) == ("INFO", "--team")
    assert found["HF_TOKEN"]["valueFrom"] == TOKEN["valueFrom"], "it must name a Secret of the run's own namespace"


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        ([{"name": "LD_PRELOAD", "value": "a"}], "LD_PRELOAD"),
        ([{"name": "TEAM_FLAGS", "value": "a"}], "spec.env[TEAM_FLAGS]: this installation lets runs set "),
        ([{"name": f"NCCL_{number}", "value": "x" * 4000} for number in range(9)], "spec.env of the defaults has "),
    ],
    ids=["reserved", "not allowed", "too long"],
)
def test_invalid_variables_are_reported(env: list[dict[str, Any]], sentence: str) -> None:
    world = SimulatedCluster(short())
    put(world, **TEAM, env=env)
    world.settle()
    assert world.jobset is None
    (stalled,) = [one for one in world.status["conditions"] if one["type"] == "Ready"]
    assert sentence in stalled["message"]
