"""What an installation allows, and the mesh that a run without `mesh` keeps in all its attempts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from halcyon_api.mesh import model_shape, pinned
from halcyon_operator.decide.reconcile import reconcile
from halcyon_operator.decide.record.spec_hash import attempt_spec_hash
from halcyon_operator.objects.jobset import build
from halcyon_operator.observe.runs import parse_run_view
from tests.families import llama
from tests.operator.builders import at, observed, run, settings_of

NOW = at(100)
FAST = {"type": "h100", "topology": "2x8", "network": "gpuDirect"}
OTHER = {"accelerator": FAST}


def condition(decision: Any, kind: str) -> tuple[str, str, str]:
    found = decision.status.condition(kind)
    return found.status, found.reason, found.message


@pytest.mark.parametrize(
    ("field", "hardware"),
    [
        ("spec.accelerator", {"accelerator": FAST}),
        ("spec.place.otherwise[1].accelerator", {"place": {"otherwise": [{"accelerator": {"type": "cpu"}}, OTHER]}}),
    ],
)
def test_node_directories_need_the_permission_of_the_operators_owner(field: str, hardware: dict[str, Any]) -> None:
    seen = observed(run(**hardware, trainer__batchSize=16))
    refused = reconcile(seen, NOW)
    assert refused.create == ()
    assert condition(refused, "Stalled")[:2] == ("True", "InvalidSpec")
    assert condition(refused, "Stalled")[2].startswith(f"{field}.network: gpuDirect gives pods")
    assert "set gpuDirect.allowed in the chart" in condition(refused, "Stalled")[2]
    allowed = reconcile(replace(seen, settings=settings_of(gpuDirect={"allowed": True})), NOW)
    assert allowed.status is not None
    assert allowed.status.attempt == 1


def test_the_standard_network_needs_no_permission() -> None:
    decision = reconcile(observed(run(accelerator={**FAST, "network": "standard"}, trainer__batchSize=16)), NOW)
    assert decision.status is not None
    assert decision.status.attempt == 1


def with_mesh(**axes: int) -> dict[str, Any]:
    mesh = {"replica": 1, "data": 1, "fsdp": 1, "tensor": 1} | axes
    return {"attempt": 1, "topology": {"slices": 1, "hosts": 4, "devices": 16, "mesh": mesh}}


SIXTEEN = {"accelerator": {"type": "v5e", "topology": "4x4"}, "trainer__batchSize": 16}


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        ({"fsdp": 16}, (1, -1, 1)),
        ({"data": 2, "fsdp": 4, "tensor": 2}, (2, 4, 2)),
        ({"fsdp": 32}, (1, -1, 1)),  # the mesh of another topology
        ({"fsdp": 2, "tensor": 8}, (1, -1, 1)),  # a manipulated record: the model has four heads
    ],
)
def test_a_run_keeps_its_recorded_mesh_if_it_is_valid(axes: dict[str, int], expected: tuple[int, int, int]) -> None:
    spec = parse_run_view(run(with_mesh(**axes), **SIXTEEN)).spec
    assert spec is not None
    assert spec.mesh is not None
    assert (spec.mesh.ici.data, spec.mesh.ici.fsdp, spec.mesh.ici.tensor) == expected


def test_a_mesh_in_the_document_overrides_the_recorded_mesh() -> None:
    spec = parse_run_view(run(with_mesh(data=2, fsdp=4, tensor=2), mesh={"ici": {"data": 4}}, **SIXTEEN)).spec
    assert spec is not None
    assert spec.mesh is not None
    assert spec.mesh.ici.data == 4


BIG = {
    "accelerator": {"type": "v5e", "topology": "8x16"},
    "model": llama(80, 8192, 28672, 64, numKeyValueHeads=8),
    "tokenizer": {"tokenizerJson": {"path": "t.json"}},
    "trainer__batchSize": 64,
}


def test_the_recorded_mesh_of_the_first_attempt_is_used_in_later_reconciliations() -> None:
    first = reconcile(observed(run(**BIG)), NOW)
    assert first.status is not None
    assert first.status.topology is not None
    assert (first.status.topology.mesh.fsdp, first.status.topology.mesh.tensor) == (64, 2), (
        "the suggested mesh must split a block over two devices"
    )
    again = parse_run_view(run(first.status.document(), **BIG)).spec
    assert again is not None
    assert attempt_spec_hash(again) == first.status.attempt_spec_hash, "its own record must not count as an edit"


def test_a_recorded_mesh_is_kept_when_the_formula_changes() -> None:
    """As if the operator that made the first attempt had suggested another mesh."""
    first = reconcile(observed(run(**BIG)), NOW)
    assert first.status is not None
    document = first.status.document()
    document["topology"]["mesh"] |= {"fsdp": 32, "tensor": 4}
    kept = parse_run_view(run(document, **BIG)).spec
    assert kept is not None
    decision = reconcile(observed(run(document | {"attemptSpecHash": attempt_spec_hash(kept)}, **BIG)), NOW)
    jobset = next(manifest for manifest in map(build, decision.create) if manifest["kind"] == "JobSet")
    env = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "HALCYON_MESH", "value": '{"replica":1,"data":1,"fsdp":32,"tensor":4}'} in env


def test_small_models_have_the_same_hash_with_and_without_a_suggested_mesh() -> None:
    suggested, written = parse_run_view(run(**SIXTEEN)).spec, parse_run_view(run(mesh={}, **SIXTEEN)).spec
    assert suggested is not None
    assert written is not None
    assert attempt_spec_hash(suggested) == attempt_spec_hash(written)
    assert pinned(suggested) is suggested
    assert model_shape(suggested).width == 64
