"""The API server itself refuses a wrong TrainingRun at apply, in a sentence that names the field and the mend."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from halcyon_api.crd import custom_resource_definition
from halcyon_devcluster import DevclusterError
from tests.api.documents import document
from tests.cluster.conftest import DevCluster

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module", autouse=True)
def definition(devcluster: DevCluster) -> None:
    definition = custom_resource_definition()
    devcluster.kubectl.apply([definition])
    devcluster.kubectl("wait", "--for=condition=Established", f"crd/{definition['metadata']['name']}", "--timeout=60s")


def apply(devcluster: DevCluster, namespace: str, run: dict[str, Any], *, dry_run: bool = True) -> str:
    arguments = ["apply", "--namespace", namespace, "--filename=-", *(["--dry-run=server"] if dry_run else [])]
    return devcluster.kubectl(*arguments, stdin=yaml.safe_dump(run))


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"spec__modle": {}}, 'unknown field "spec.modle"'),
    ({"spec__trainer__steps": ...}, "spec.trainer.steps: Required value"),
    ({"spec__trainer__steps": 0}, "spec.trainer.steps"),
    ({"spec__accelerator__type": "v9"}, 'supported values: "cpu", "v5e", "v6e"'),
    ({"spec__accelerator": {"type": "v5e", "topology": "3x3"}}, "topology of v5e must be one of 1x1, 2x2, 2x4"),
    ({"spec__accelerator": {"type": "cpu", "topology": "9999x1"}}, "with at most 1024 hosts"),
    ({"spec__accelerator__slices": 257}, "spec.accelerator.slices"),
    ({"spec__accelerator__provisioning": "spot"}, "leave it out for type cpu"),
    ({"spec__accelerator": {"type": "v6e", "provisioning": "reservation"}}, "set reservation together with"),
    ({"spec__model": {}}, "set exactly one of llama, gpt2"),
    ({"spec__model__gpt2": {}}, "set exactly one of llama, gpt2"),
    ({"spec__model__llama__heads": 5}, "hiddenSize must be a multiple of heads"),
    ({"spec__model__llama__kvHeads": 3}, "kvHeads must divide heads"),
    ({"spec__mesh": {"ici": {"fsdp": 3}}}, "the mesh.ici axes multiply to the devices of a slice"),
    ({"spec__mesh": {"ici": {"tensor": 3}}}, "the mesh.ici axes multiply to the devices of a slice"),
    ({"spec__mesh": {"ici": {"data": -1}}}, "at most one of them is -1"),
    ({"spec__mesh": {"dcn": {"replica": 3}}}, "must be -1 or equal accelerator.slices"),
    ({"spec__trainer__batchSize": 6}, "trainer.batchSize must be a multiple of the data parallelism"),
    ({"spec__trainer__microbatches": 3}, "trainer.batchSize must be a multiple of the data parallelism"),
    ({"spec__checkpoint__root": "https://example.org/x"}, "spec.checkpoint.root"),
    ({"spec__checkpoint__root": "file:///a/../b"}, "without `..`"),
    ({"spec__checkpoint__endpoint": "http://store:7070"}, "endpoint belongs to an s3:// root"),
    ({"spec__data__sources": [{"name": "x"}]}, "set exactly one of stdlib, text"),
    ({"metadata__name": "a" * 41}, "at most 40 characters"),
    ({"metadata__name": "with.dot"}, "consist of lower-case letters, digits and `-`"),
]


@pytest.mark.parametrize(("changes", "sentence"), REFUSED, ids=lambda value: "-".join(value) if isinstance(value, dict) else "")
def test_a_wrong_document_is_refused_at_apply(devcluster: DevCluster, namespace: str, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DevclusterError) as refused:
        apply(devcluster, namespace, document(**changes))
    assert sentence in str(refused.value)


def test_a_sound_document_is_taken_and_shows_its_defaults(devcluster: DevCluster, namespace: str) -> None:
    apply(devcluster, namespace, document(), dry_run=False)
    stored = devcluster.kubectl.json("get", "trainingrun", "small", "--namespace", namespace)
    assert stored["spec"]["optimizer"]["adamw"]["schedule"]["cosine"]["minRatio"] == 0.1
    assert stored["spec"]["telemetry"]["port"] == 9400


@pytest.mark.parametrize(
    "change",
    [
        {"spec__model__llama__layers": 3},
        {"spec__data__order": {"sequential": {}}},
        {"spec__optimizer": {"adamw": {"learningRate": 0.1}}},
        {"spec__trainer__steps": 20},
        {"spec__trainer__seed": 1},
        {"spec__checkpoint__root": "file:///checkpoints/other"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_decides_the_numbers_must_not_change(devcluster: DevCluster, namespace: str, change: dict[str, Any]) -> None:
    apply(devcluster, namespace, document(), dry_run=False)
    with pytest.raises(DevclusterError, match="must not change while the run exists"):
        apply(devcluster, namespace, document(**change))


@pytest.mark.parametrize(
    "change",
    [
        {"spec__suspend": True},
        {"spec__image": "registry.example/trainer:2"},
        {"spec__accelerator__slices": 1},
        {"spec__trainer__microbatches": 2},
        {"spec__checkpoint__keep": 5},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_only_says_where_and_how_may_change(devcluster: DevCluster, namespace: str, change: dict[str, Any]) -> None:
    apply(devcluster, namespace, document(), dry_run=False)
    apply(devcluster, namespace, document(**change))


def test_explain_describes_every_field(devcluster: DevCluster) -> None:
    text = devcluster.kubectl("explain", "trainingrun.spec.accelerator", "--recursive")
    assert "hostResources" in text
    assert "The hardware: so many slices of one topology of one type." in text
    topology = devcluster.kubectl("explain", "trun.spec.accelerator.topology")
    assert "two hosts with four JAX devices each" in " ".join(topology.split())


def test_the_short_name_and_the_category_list_runs(devcluster: DevCluster, namespace: str) -> None:
    apply(devcluster, namespace, document(), dry_run=False)
    for name in ("trun", "training", "trainingruns"):
        table = devcluster.kubectl("get", name, "--namespace", namespace)
        assert "small" in table
    header = table.splitlines()[0].split()
    assert header == ["NAME", "PHASE", "STEP", "OF", "LOSS", "TOKENS/S", "SAVED", "RESTARTS", "AGE"]
