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


def put(simulated: SimulatedCluster, **arguments: Any) -> None:
    """Apply defaults."""
    document = defaults(**arguments)
    namespace, name = document["metadata"]["namespace"], document["metadata"]["name"]
    simulated.api.objects[f"/apis/halcyon.dev/v1alpha1/namespaces/{namespace}/trainingrundefaults/{name}"] = document


def short(**spec: Any) -> dict[str, Any]:
    return run(**{"checkpoint": ..., "recovery": ..., **spec})


def begun(*, train: bool = True, **arguments: Any) -> SimulatedCluster:
    """A short run whose first attempt trains with the team's defaults."""
    simulated = SimulatedCluster(short(**arguments))
    put(simulated, **TEAM)
    simulated.settle()
    if train:
        simulated.train(50)
        simulated.settle()
    return simulated


def trained_with(simulated: SimulatedCluster) -> dict[str, Any]:
    """The document in the ConfigMap of the current attempt's pods."""
    name = f"demo-{simulated.status['attempt']}"
    (config_map,) = (thing for place, thing in simulated.api.objects.items() if place.endswith(f"/configmaps/{name}"))
    return yaml.safe_load(config_map["data"]["run.yaml"])["spec"]


def container(simulated: SimulatedCluster) -> dict[str, Any]:
    assert simulated.jobset is not None
    return simulated.jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]


def ready(simulated: SimulatedCluster) -> str:
    return next(entry["message"] for entry in simulated.status["conditions"] if entry["type"] == "Ready")


def test_a_short_document_trains_with_the_defaults_of_its_namespace_and_stays_short() -> None:
    simulated = begun()
    spec = trained_with(simulated)
    assert (spec["checkpoint"]["root"], spec["checkpoint"]["endpoint"]) == (
        "s3://team/runs/default/demo",
        "http://store.team:7070",
    )
    assert (spec["telemetry"]["port"], spec["checkpoint"]["keep"]) == (9400, 2), (
        "built-in defaults are written out for the trainer"
    )
    assert (container(simulated)["serviceAccountName"], container(simulated)["containers"][0]["image"]) == (
        "trainer",
        "team.example/trainer:1",
    )
    assert simulated.api.objects[RUN]["spec"] == short()["spec"], "the operator never writes the spec"
    assert simulated.status["defaults"] == {
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
    assert root_of_run(simulated.api.objects[RUN]) == "s3://team/runs/default/demo"
    finish(simulated)


def test_editing_or_deleting_the_defaults_does_not_change_a_started_run() -> None:
    simulated = begun()
    before, status = trained_with(simulated), dict(simulated.status)
    assert before["recovery"]["maxRestarts"] == 7
    put(
        simulated,
        **(
            TEAM
            | {
                "image": "other.example/trainer:2",
                "checkpoint__rootPrefix": "s3://elsewhere",
                "recovery__maxRestarts": 1,
            }
        ),
    )
    simulated.settle()
    assert (simulated.status["attempt"], simulated.status["attemptSpecHash"]) == (1, status["attemptSpecHash"])
    simulated.delete_jobset()
    simulated.settle()
    assert (simulated.status["attempt"], trained_with(simulated), simulated.status["defaults"]) == (
        2,
        before,
        status["defaults"],
    )
    for place in [place for place in simulated.api.objects if "/trainingrundefaults/" in place]:
        del simulated.api.objects[place]
    simulated.edit(suspend=True)
    simulated.settle()
    simulated.edit(suspend=False)
    simulated.settle()
    assert (simulated.status["attempt"], trained_with(simulated)) == (3, before | {"suspend": False})
    simulated.train(60)
    simulated.settle()
    simulated.edit(ttlSecondsAfterFinished=9)
    simulated.settle()
    assert (simulated.status["attempt"], simulated.status["defaults"]) == (3, status["defaults"]), (
        "an ordinary edit must not take new defaults"
    )


def test_requested_defaults_take_effect_at_a_checkpoint_and_keep_the_root() -> None:
    simulated = begun()
    put(
        simulated,
        generation=2,
        **(TEAM | {"image": "team.example/trainer:2", "checkpoint__rootPrefix": "s3://elsewhere"}),
    )
    simulated.annotate("now", REFRESH)
    simulated.settle()
    assert simulated.asked, "the trainer must save first"
    assert (simulated.status["attempt"], simulated.status["edit"]["fields"]) == (1, ["image"])
    assert simulated.status["defaults"]["request"] == "", (
        "the record must have the defaults that the attempt was made from"
    )
    simulated.head = head(50, epoch=(1, 0))
    simulated.settle()
    assert simulated.status["attempt"] == 2
    assert trained_with(simulated)["image"] == "team.example/trainer:2"
    checkpoint = trained_with(simulated)["checkpoint"]
    assert (checkpoint["root"], checkpoint["endpoint"]) == ("s3://team/runs/default/demo", "http://store.team:7070")
    assert (simulated.status["defaults"]["request"], simulated.status["defaults"]["sources"][0]["generation"]) == (
        "now",
        2,
    )
    put(simulated, generation=3, **(TEAM | {"image": "team.example/trainer:3"}))
    simulated.settle()
    assert (simulated.status["attempt"], trained_with(simulated)["image"]) == (2, "team.example/trainer:2"), (
        "one request must take the defaults once"
    )
    finish(simulated)


def test_live_fields_of_requested_defaults_are_in_force_at_once() -> None:
    simulated = begun()
    put(simulated, generation=2, **(TEAM | {"recovery__maxRestarts": 2, "ttlSecondsAfterFinished": 5}))
    simulated.annotate("now", REFRESH)
    simulated.settle()
    assert (simulated.status["attempt"], simulated.status["defaults"]["request"]) == (1, "now")
    assert simulated.status["inForce"]["recovery.maxRestarts"] == "2"
    put(simulated, generation=3, **TEAM)
    simulated.settle()
    assert simulated.status["inForce"]["recovery.maxRestarts"] == "2"


def test_run_before_namespace_before_cluster_before_built_in() -> None:
    simulated = SimulatedCluster(
        short(scheduling={"nodeSelector": {"pool": "mine"}}, recovery={"gracePeriodSeconds": 9})
    )
    put(simulated, **(TEAM | {"scheduling__nodeSelector": {"pool": "team", "zone": "b"}}))
    cluster = {
        "image": "cluster.example/trainer:1",
        "recovery__maxRestarts": 1,
        "recovery__gracePeriodSeconds": 3,
        "checkpoint__rootPrefix": "s3://cluster",
        "checkpoint__region": "nowhere-1",
        "scheduling__nodeSelector": {"zone": "c", "disk": "ssd"},
        "scheduling__priorityClassName": "low",
    }
    put(simulated, namespace=SYSTEM, **cluster)
    simulated.settle()
    view = parse_run_view(simulated.api.objects[RUN])
    assert view.spec is not None
    scheduling, recovery = view.spec.scheduling, view.spec.recovery
    assert scheduling.node_selector == {"pool": "mine", "zone": "b", "disk": "ssd"}
    assert (scheduling.priority_class_name, view.spec.image) == ("low", "team.example/trainer:1")
    assert (recovery.grace_period_seconds, recovery.max_restarts, recovery.step_timeout_seconds) == (9, 7, 60)
    assert view.spec.checkpoint.region is None, "the cluster's settings are for another store than the team's"
    assert [source["namespace"] for source in simulated.status["defaults"]["sources"]] == ["default", SYSTEM]


def test_a_name_selects_defaults_and_a_level_without_that_name_gives_its_default() -> None:
    simulated = SimulatedCluster(short(defaults="large"))
    put(simulated, **TEAM)
    put(
        simulated,
        namespace=SYSTEM,
        name="large",
        image="large.example/trainer:1",
        scheduling__priorityClassName="large",
    )
    put(simulated, namespace=SYSTEM, scheduling__priorityClassName="plain")
    simulated.settle()
    assert [source["name"] for source in simulated.status["defaults"]["sources"]] == ["default", "large"]
    assert container(simulated)["priorityClassName"] == "large"
    simulated.train(50)
    simulated.settle()
    simulated.edit(defaults="default")
    simulated.settle()
    simulated.head = head(50, epoch=(1, 0))
    simulated.settle()
    assert (simulated.status["attempt"], container(simulated)["priorityClassName"]) == (2, "plain"), (
        "another name must take other defaults"
    )


def test_an_unknown_name_is_reported_in_one_sentence_and_waited_for() -> None:
    simulated = SimulatedCluster(run(defaults="larg"))
    put(simulated, **TEAM)
    simulated.settle()
    sentence = (
        f"spec.defaults: there is no TrainingRunDefaults larg in namespace default nor {SYSTEM}; correct the name, or "
        "leave it out"
    )
    assert (simulated.status["attempt"], ready(simulated)) == (0, sentence)
    put(simulated, name="larg", **TEAM)
    simulated.settle()
    assert simulated.status["attempt"] == 1


def test_an_empty_name_selects_no_defaults() -> None:
    simulated = SimulatedCluster(run(defaults=""))
    put(simulated, **TEAM)
    simulated.settle()
    assert "image" not in trained_with(simulated)
    assert simulated.status["defaults"] == {"name": "", "request": "", "sources": [], "values": {}}


def test_a_missing_root_is_reported_in_one_sentence_and_waited_for() -> None:
    simulated = SimulatedCluster(short())
    simulated.settle()
    assert (simulated.status["attempt"], ready(simulated)) == (
        0,
        "spec.checkpoint.root: nothing says where the checkpoints of this run are kept; set it, or have "
        "checkpoint.rootPrefix set in the TrainingRunDefaults of its namespace",
    )
    put(simulated, **TEAM)
    simulated.settle()
    assert trained_with(simulated)["checkpoint"]["root"] == "s3://team/runs/default/demo"


def test_defaults_that_do_not_fit_the_run_are_reported_and_training_continues() -> None:
    simulated = begun()
    put(simulated, **(TEAM | {"scheduling__nodeSelector": {"no key": "x"}}))
    simulated.annotate("now", REFRESH)
    simulated.settle()
    assert "is no key of a label" in ready(simulated)
    assert simulated.status["attempt"] == 1
    assert simulated.jobset is not None
    put(simulated, **(TEAM | {"image": "not an image"}))
    simulated.settle()
    assert "TrainingRunDefaults default/default: spec.image: " in ready(simulated)
    put(simulated, **TEAM)
    simulated.settle()
    assert (simulated.status["attempt"], simulated.status["phase"], simulated.status["defaults"]["request"]) == (
        1,
        "Running",
        "now",
    )


def test_a_started_run_without_a_record_takes_no_defaults() -> None:
    simulated = SimulatedCluster(run())
    simulated.settle()
    simulated.train(50)
    simulated.settle()
    del simulated.api.objects[RUN]["status"]["defaults"]
    put(simulated, **TEAM)
    simulated.settle()
    assert (simulated.status["attempt"], "image" in trained_with(simulated)) == (1, False)
    simulated.delete_jobset()
    simulated.settle()
    assert (simulated.status["attempt"], "image" in trained_with(simulated)) == (2, False)


@pytest.mark.parametrize("fault", ["crash before", "crash after", "conflict", "refuse", "lose the answer"])
@pytest.mark.parametrize("write", [1, 2, 3, 4])
def test_a_run_takes_one_state_of_the_defaults_despite_crashes_of_the_operator(write: int, fault: str) -> None:
    simulated = SimulatedCluster(short(), {write: fault})
    put(simulated, **TEAM)
    edited: list[int] = []
    look = simulated.reconcile_once

    async def edit_defaults_once() -> None:
        await look()
        if simulated.status.get("attempt", 0) > 0 and not edited:
            edited.append(simulated.api.writes)
            put(simulated, **(TEAM | {"image": "other.example/trainer:2"}))

    simulated.reconcile_once = edit_defaults_once  # type: ignore[method-assign]
    simulated.settle()
    assert edited
    assert trained_with(simulated)["image"] == "team.example/trainer:1", (
        "the recorded defaults must stay, whatever happened later"
    )
    assert simulated.status["attempt"] == 1


def test_a_run_that_begins_from_one_with_defaults_finds_its_root() -> None:
    simulated = begun(train=False)
    other = simulated.api.objects[RUN]
    clone = SimulatedCluster(run(**{"from": {"run": "base"}}))
    clone.api.objects[RUN.replace("/demo", "/base")] = other | {"metadata": other["metadata"] | {"name": "base"}}
    clone.settle()
    assert trained_with(clone)["from"]["root"] == "s3://team/runs/default/base"


def test_variables_come_from_defaults_and_the_run_wins() -> None:
    simulated = SimulatedCluster(short(env=[{"name": "NCCL_DEBUG", "value": "INFO"}]))
    put(simulated, **TEAM, env=[{"name": "NCCL_DEBUG", "value": "WARN"}, {"name": "XLA_FLAGS", "value": "--team"}])
    put(simulated, namespace=SYSTEM, env=[{"name": "XLA_FLAGS", "value": "--all"}, TOKEN])
    simulated.settle()
    assert simulated.jobset is not None
    container = simulated.jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]
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
    simulated = SimulatedCluster(short())
    put(simulated, **TEAM, env=env)
    simulated.settle()
    assert simulated.jobset is None
    (stalled,) = [one for one in simulated.status["conditions"] if one["type"] == "Ready"]
    assert sentence in stalled["message"]
