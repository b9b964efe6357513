"""The API server itself rejects a wrong TrainingRun at apply, in one sentence that names the field and the fix."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from halcyon_api.generate.crd import definitions
from halcyon_api.reading import parse_run
from halcyon_api.validation import find_problems
from halcyon_devcluster import DevclusterError
from halcyon_devcluster.control_plane import ControlPlane
from halcyon_operator.observe.runs import parse_run_view
from tests.api.documents import document
from tests.apiserver.api import Api, Refused
from tests.families import llama
from tests.suite import promises

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"spec__modle": {}}, 'unknown field "spec.modle"'),
    ({"spec__trainer__steps": ...}, "spec.trainer.steps: Required value"),
    ({"spec__trainer__steps": 0}, "spec.trainer.steps"),
    ({"spec__accelerator__type": "v9"}, 'supported values: "cpu", "v4", "v5e", "v5p"'),
    ({"spec__accelerator": {"type": "v5p", "topology": "4x4x6"}}, "sides that are multiples of 4"),
    (
        {"spec__accelerator": {"type": "h100", "topology": "1x8x8"}},
        "with at most 1024 hosts and 1 or 2 or 4 or 8 devices a host",
    ),
    ({"spec__accelerator": {"type": "cpu", "topology": "4"}}, "spec.accelerator.topology"),
    (
        {"spec__accelerator": {"type": "v7x", "topology": "2x2x1"}, "spec__mesh": {"ici": {"fsdp": 4}}},
        "twice those of v7x",
    ),
    ({"spec__scheduling": {"nodeSelector": {"a": "not a value"}}}, "spec.scheduling.nodeSelector.a"),
    ({"spec__accelerator__slices": 257}, "spec.accelerator.slices"),
    ({"spec__model": {}}, "spec.model.family: Required value"),
    ({"spec__model__family": "lama"}, 'Unsupported value: "lama": supported values: '),
    ({"spec__model__numLocalExperts": 8}, "numLocalExperts is no field of llama; take it out"),
    (
        {"spec__model": {"family": "qwen3Moe", "numLocalExperts": 8}},
        "numLocalExperts is no field of qwen3Moe; did you mean numExperts?",
    ),
    ({"spec__mesh": {"ici": {"fsdp": 3}}}, "the mesh.ici axes multiply to the devices of a slice"),
    ({"spec__mesh": {"ici": {"tensor": 3}}}, "the mesh.ici axes multiply to the devices of a slice"),
    ({"spec__trainer__microbatches": 0}, "spec.trainer.microbatches in body should be greater than or equal to 1"),
    ({"spec__trainer__microbatches": "many"}, "spec.trainer.microbatches in body should match '^auto$'"),
    ({"spec__mesh": {"dcn": {"replica": 3}}}, "must be -1 or equal accelerator.slices"),
    ({"spec__checkpoint__root": "https://example.org/x"}, "spec.checkpoint.root"),
    ({"spec__data__sources": [{"name": "x"}]}, "set exactly one of stdlib, text"),
    (
        {"spec__env": [{"name": "MEGASCALE_PORT", "value": "9"}]},
        "this name is reserved for Halcyon or the operator's owner",
    ),
    (
        {"spec__env": [{"name": "HTTPS_PROXY", "value": "http://me"}]},
        "this name is reserved for Halcyon or the operator's owner",
    ),
    ({"spec__env": [{"name": "https_proxy", "value": "http://me"}]}, "spec.env[0].name"),
    ({"spec__env": [{"name": "XLA_FLAGS", "value": "a"}, {"name": "XLA_FLAGS", "value": "b"}]}, "Duplicate value"),
    ({"spec__env": [{"name": "XLA_FLAGS", "valueFrom": {"fieldRef": {"fieldPath": "spec"}}}]}, "fieldRef"),
    ({"spec__env": [{"name": "XLA_FLAGS", "value": "x" * 4097}]}, "spec.env[0].value"),
    ({"metadata__name": "a" * 41}, "at most 40 characters"),
    ({"metadata__name": "with.dot"}, "consist of lower-case letters, digits and `-`"),
]


@pytest.mark.parametrize(
    ("changes", "sentence"), REFUSED, ids=lambda value: "-".join(value) if isinstance(value, dict) else ""
)
@promises.REFUSED_AT_APPLY
def test_a_wrong_document_is_refused_at_apply(
    api: Api, shared_namespace: str, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(Refused) as refused:
        api.create(document(**changes), shared_namespace, dry_run=True)
    assert sentence in str(refused.value)


A_STEP_LATER: list[tuple[dict[str, Any], str]] = [
    (
        {"spec__recovery": {"elastic": {"minSlices": 1}}, "spec__trainer__batchSize": 6},
        "6 must be a multiple of the data parallelism times microbatches, 4 x 1; the next one is 8",
    ),
    (
        {"spec__trainer__microbatches": 3},
        "8 sequences fill 2 of 3 microbatches on 4 data-parallel devices; give trainer.microbatches at most 2",
    ),
    (
        {"spec__recovery": {"elastic": {"minSlices": 1, "maxSlices": 3}}},
        "the batch cannot be distributed evenly over 3 slices",
    ),
    (
        {"spec__recovery": {"elastic": {"minSlices": 1}}, "spec__trainer__batchSize": 5},
        "5 must be a multiple of the data parallelism",
    ),
]
"""Mistakes that depend on the size of the model: the API server accepts them, `halcyon validate` and the run's
condition report them.
"""


@pytest.mark.parametrize(
    ("changes", "sentence"), A_STEP_LATER, ids=lambda value: "-".join(value) if isinstance(value, dict) else ""
)
def test_a_batch_that_does_not_divide_is_reported_by_the_operator_and_not_at_apply(
    api: Api, shared_namespace: str, changes: dict[str, Any], sentence: str
) -> None:
    run = document(**changes)
    api.create(run, shared_namespace, dry_run=True)
    view = parse_run_view(run)
    assert view.spec is None, "the operator must make no attempt of it"
    sentences = "; ".join(map(str, find_problems(parse_run(run).spec)))
    assert sentence in sentences
    assert sentence in "; ".join(view.problems)


@pytest.mark.parametrize("changes", [{"spec__modle": {}}, {"spec__mesh": {"ici": {"fsdp": 3}}}], ids="-".join)
def test_kubectl_shows_the_sentence(api_server: ControlPlane, namespace: str, changes: dict[str, Any]) -> None:
    (sentence,) = (sentence for refused, sentence in REFUSED if refused == changes)
    with pytest.raises(DevclusterError) as refused:
        api_server.kubectl("apply", "--namespace", namespace, "--filename=-", stdin=yaml.safe_dump(document(**changes)))
    assert sentence in str(refused.value)


def test_environment_variables_are_accepted(api: Api, shared_namespace: str) -> None:
    secret = {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}
    api.create(document(spec__env=[{"name": "XLA_FLAGS", "value": ""}, secret]), shared_namespace, dry_run=True)


def test_microbatches_may_be_automatic(api: Api, shared_namespace: str) -> None:
    api.create(
        document(spec__trainer__microbatches="auto", spec__trainer__remat="auto"), shared_namespace, dry_run=True
    )


def test_a_valid_document_is_accepted_and_shows_its_defaults(api: Api, namespace: str) -> None:
    api.create(document(), namespace)
    stored = api.get(document(), namespace)
    assert stored["spec"]["optimizer"]["weightDecay"] == 0.1
    assert stored["spec"]["trainer"]["microbatches"] == 1
    assert stored["spec"]["telemetry"] == {}, "fields that a TrainingRunDefaults may set must not be filled in"


TAKEN: list[dict[str, Any]] = [
    {"spec__accelerator": {"type": "v4", "topology": "8x4x4"}, "spec__trainer__batchSize": 128},
    {"spec__accelerator": {"type": "v5p", "topology": "4x4x8", "slices": 2}, "spec__trainer__batchSize": 256},
    {"spec__accelerator": {"type": "v5p", "topology": "16x16x32"}, "spec__trainer__batchSize": 8192},
    {
        "spec__accelerator": {"type": "v7x", "topology": "4x4x8"},
        "spec__mesh": {"ici": {"data": 2, "fsdp": -1, "tensor": 2}},
        "spec__trainer__batchSize": 128,
    },
    {"spec__accelerator": {"type": "h100", "topology": "2x8", "network": "gpuDirect"}, "spec__trainer__batchSize": 16},
    {
        "spec__accelerator": {"type": "gb200", "topology": "18x4", "computeDomain": "nvlink"},
        "spec__trainer__batchSize": 72,
    },
    {"spec__accelerator": {"type": "l4", "topology": "1x4", "provisioning": "queued"}},
    {"spec__accelerator": {"type": "l4", "topology": "2x4", "provisioning": "flexStart"}},
    {"spec__accelerator": {"type": "v6e", "topology": "2x2", "provisioning": "flexStart"}},
    {"spec__accelerator": {"type": "v5p", "topology": "2x2x1", "provisioning": "flexStart"}},
    {"spec__accelerator": {"type": "v6e", "topology": "4x8", "provisioning": "queued"}, "spec__trainer__batchSize": 32},
    {
        "spec__accelerator": {"type": "h100", "topology": "1x8", "provisioning": "reservation", "reservation": "ours"}
        | {"reservationProject": "others-project"}
    },
    {
        "spec__accelerator": {"type": "nvidia", "topology": "1x3"},
        "spec__trainer__batchSize": 9,
        "spec__scheduling": {
            "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-L40S"},
            "tolerations": [{"key": "dedicated", "effect": "NoSchedule"}],
        },
    },
    # The suggested mesh has a tensor axis.
    {
        "spec__accelerator": {"type": "v5e", "topology": "8x16"},
        "spec__trainer__batchSize": 64,
        "spec__model": llama(80, 8192, 28672, 64, numKeyValueHeads=8),
    },
]


@pytest.mark.parametrize(
    "changes", TAKEN, ids=lambda changes: "-".join(map(str, changes["spec__accelerator"].values()))
)
def test_hardware_of_every_family_is_accepted(api: Api, shared_namespace: str, changes: dict[str, Any]) -> None:
    run = document(**changes)
    assert find_problems(parse_run(run).spec) == (), "the operator and the API server must agree"
    api.create(run, shared_namespace, dry_run=True)


@pytest.fixture(scope="module")
def stored(api: Api, make_namespace: Callable[[], str]) -> str:
    """A namespace with the minimal run in it, which no test changes."""
    namespace = make_namespace()
    api.create(document(), namespace)
    return namespace


@pytest.mark.parametrize(
    "change",
    [
        {"spec__model__numHiddenLayers": 3},
        {"spec__data__order": {"sequential": {}}},
        {"spec__optimizer": {"learningRate": 0.1, "adamw": {}}},
        {"spec__optimizer": {"schedule": {"constant": {}}, "adamw": {}}},
        {"spec__optimizer": {"adamw": {"beta1": 0.8}}},
        {"spec__model": {"family": "gpt2", "numHiddenLayers": 2, "hiddenSize": 64, "numAttentionHeads": 4}},
        {"spec__model__numKeyValueHeads": 2},
        {"spec__trainer__seed": 1},
        {"spec__checkpoint__root": "file:///checkpoints/other"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_fields_that_change_the_results_must_not_change(api: Api, stored: str, change: dict[str, Any]) -> None:
    with pytest.raises(Refused, match="must not change"):
        api.edit(document(), document(**change), stored, dry_run=True)


@pytest.mark.parametrize(
    "change",
    [
        {"spec__suspend": True},
        {"spec__image": "registry.example/trainer:2"},
        {"spec__accelerator__slices": 1},
        {"spec__recovery": {"elastic": {"minSlices": 1, "maxSlices": 4}}},
        {"spec__trainer__microbatches": 2},
        {"spec__checkpoint__keep": 5},
        {
            "spec__scheduling": {
                "queue": {
                    "name": "research",
                    "priorityClass": "urgent",
                    "topology": {"preferred": "rack", "slice": "host"},
                }
            }
        },
        {"spec__trainer__remat": "full"},
        {"spec__trainer__steps": 20},
    ],
    ids=lambda change: next(iter(change)),
)
def test_fields_that_only_say_where_and_how_a_run_trains_may_change(
    api: Api, stored: str, change: dict[str, Any]
) -> None:
    api.edit(document(), document(**change), stored, dry_run=True)


def test_the_configuration_of_a_custom_model_has_any_members_and_must_not_change(api: Api, namespace: str) -> None:
    def run(**changes: Any) -> dict[str, Any]:
        config = {"width": 64, "blocks": [{"kind": "own"}], "options": {"depth": 3}, **changes}
        return document(spec__model={"family": "custom", "class": "package.module:Class", "config": config})

    api.create(run(), namespace)
    api.edit(
        run(), {**run(), "spec": {**run()["spec"], "image": "registry.example/trainer:2"}}, namespace, dry_run=True
    )
    for change in ({"width": 65}, {"options": {"depth": 4}}, {"more": True}):
        with pytest.raises(Refused, match="must not change"):
            api.edit(run(), run(**change), namespace, dry_run=True)


def test_steps_may_change_while_the_schedule_of_the_steps_done_stays_the_same(api: Api, namespace: str) -> None:
    """The API server uses the progress in the status. The operator and the trainer decide with the same function."""
    schedules: dict[str, tuple[dict[str, Any], int]] = {
        "constant": ({"constant": {}}, 1000),
        "absolute": ({"cosine": {"decaySteps": 50}}, 1000),
        "cosine": ({"cosine": {"warmupSteps": 6}}, 6),
        "wsd": ({"wsd": {"decaySteps": 30}}, 70),
    }
    for name, (schedule, settled) in schedules.items():
        base = {"metadata__name": name, "spec__optimizer": {"schedule": schedule, "adamw": {}}}
        before, longer, shorter = (document(**base, spec__trainer__steps=steps) for steps in (100, 120, 99))
        api.create(before, namespace)
        for done in (5, 6, 7, 70, 71, 100):
            api.patch(before, {"status": {"progress": {"step": done, "steps": 100}}}, namespace, subresource="status")
            refused = ""
            try:
                api.edit(before, longer, namespace, dry_run=True)
            except Refused as error:
                refused = str(error)
            assert ("trainer.steps may change only while" in refused) == (done > settled), (
                f"{name} at {done}: {refused}"
            )
        with pytest.raises(Refused, match=r"trainer\.steps may change only while"):
            api.edit(before, shorter, namespace, dry_run=True)


def test_the_spike_rule_cannot_be_added_or_removed_later(api: Api, namespace: str) -> None:
    """Its memory is part of the checkpoints. Its threshold, and the other reactions to divergence, are not."""

    def with_spikes(name: str = "small", **spike: Any) -> dict[str, Any]:
        rule = {"nonFinite": "skip", "spike": {"sigmas": 6.0, "windowSteps": 64, **spike}}
        return document(metadata__name=name, spec__recovery={"divergence": rule})

    watched, plain = with_spikes(), document(metadata__name="plain")
    api.create(watched, namespace)
    api.create(plain, namespace)
    api.edit(watched, with_spikes(sigmas=8.0, action="stop"), namespace, dry_run=True)
    for changed in (with_spikes(windowSteps=65), document(spec__recovery={"divergence": {"nonFinite": "skip"}})):
        with pytest.raises(
            Refused,
            match="spike must not be added, removed, change its windowSteps, or gain or lose gradientNormSigmas while "
            "the run exists",
        ):
            api.edit(watched, changed, namespace, dry_run=True)
    api.edit(
        plain,
        document(metadata__name="plain", spec__recovery={"divergence": {"nonFinite": "ignore"}}),
        namespace,
        dry_run=True,
    )
    with pytest.raises(Refused, match="spike must not be added"):
        api.edit(plain, with_spikes("plain"), namespace, dry_run=True)


@pytest.mark.usefixtures("api")
@promises.EVERY_FIELD
def test_explain_describes_every_field(api_server: ControlPlane) -> None:
    text = api_server.kubectl("explain", "trainingrun.spec.accelerator", "--recursive")
    assert "hostResources" in text
    assert "The hardware: identical slices of one topology and one accelerator type." in text
    topology = api_server.kubectl("explain", "trun.spec.accelerator.topology")
    assert "two hosts with eight devices" in " ".join(topology.split())


def test_the_short_name_and_the_category_list_runs(api: Api, api_server: ControlPlane, namespace: str) -> None:
    api.create(document(), namespace)
    for name in ("trun", "training", "trainingruns"):
        table = api_server.kubectl("get", name, "--namespace", namespace)
        assert "small" in table
    header = table.splitlines()[0].split()
    assert header == ["NAME", "PHASE", "STEP", "OF", "LOSS", "TOKENS/S", "SAVED", "RESTARTS", "AGE"]


@pytest.mark.parametrize("definition", definitions(), ids=lambda definition: definition["metadata"]["name"])
def test_the_api_server_stores_a_definition_as_it_is_written(api: Api, definition: dict[str, Any]) -> None:
    """Else a tool that compares both, such as Argo CD, would apply it again and again."""
    stored = api.get(definition)["spec"]
    del stored["conversion"]
    assert json.dumps(stored, sort_keys=True) == json.dumps(definition["spec"], sort_keys=True)
