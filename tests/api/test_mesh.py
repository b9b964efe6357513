"""Topology and mesh arithmetic, as tables."""

from __future__ import annotations

from typing import Any

import pytest

from halcyon.parallel.axes import COMPUTE_AXES, PARAMETER_AXES
from halcyon.parallel.device_mesh import MESH_AXES
from halcyon_api.mesh import gathers_once, model_shape, pinned, run_mesh, suggest_axes
from halcyon_api.spec.accelerator import AcceleratorSpec, Topology
from halcyon_api.spec.families.section import ModelSection
from halcyon_api.spec.mesh import AXES, DcnAxes, IciAxes, InvalidMesh, MeshSpec, ResolvedMesh, on, resolve_mesh
from halcyon_api.spec.model import FAMILIES, read_model
from halcyon_api.spec.model_shape import ModelShape, Split
from halcyon_api.training_run import TrainingRunSpec
from halcyon_api.validation import find_problems
from tests.api.documents import minimal_spec
from tests.families import SMALL_FAMILIES, llama


@pytest.mark.parametrize(
    ("accelerator", "expected"),
    [
        (AcceleratorSpec(type="cpu"), Topology(1, 1, 1)),
        (AcceleratorSpec(type="cpu", topology="3x2", slices=4), Topology(4, 3, 2)),
        (AcceleratorSpec(type="v5e", topology="1x1"), Topology(1, 1, 1)),
        (AcceleratorSpec(type="v5e", topology="2x2"), Topology(1, 1, 4)),
        (AcceleratorSpec(type="v5e", topology="4x4", slices=2), Topology(2, 4, 4)),
        (AcceleratorSpec(type="v6e", topology="16x16"), Topology(1, 64, 4)),
        (AcceleratorSpec(type="v4", topology="8x4x4"), Topology(1, 32, 4)),
        (AcceleratorSpec(type="v5p", topology="4x4x8", slices=3), Topology(3, 32, 4)),
        (AcceleratorSpec(type="v7x", topology="4x4x8"), Topology(1, 32, 8)),
        (AcceleratorSpec(type="v7x", topology="1x1x1"), Topology(1, 1, 2)),
        (AcceleratorSpec(type="h100", topology="2x8", slices=2), Topology(2, 2, 8)),
        (AcceleratorSpec(type="gb200", topology="18x4"), Topology(1, 18, 4)),
        (AcceleratorSpec(type="nvidia", topology="3x2"), Topology(1, 3, 2)),
    ],
)
def test_topology_of_an_accelerator(accelerator: AcceleratorSpec, expected: Topology) -> None:
    assert accelerator.resolve() == expected


@pytest.mark.parametrize(
    ("axes", "devices", "expected"),
    [
        ({}, 8, (1, 8, 1)),
        ({"fsdp": 2, "data": -1}, 8, (4, 2, 1)),
        ({"fsdp": -1, "tensor": 4}, 8, (1, 2, 4)),
        ({"data": 2, "fsdp": 2, "tensor": 2}, 8, (2, 2, 2)),
        ({"fsdp": -1, "tensor": 8}, 8, (1, 1, 8)),
    ],
)
def test_missing_mesh_axes_are_filled_in(axes: dict[str, int], devices: int, expected: tuple[int, int, int]) -> None:
    mesh = resolve_mesh(MeshSpec(ici=IciAxes(**axes)), Topology(3, 1, devices))
    assert (mesh.replica, mesh.data, mesh.fsdp, mesh.tensor) == (3, *expected)
    assert mesh.devices == 3 * devices


@pytest.mark.parametrize("axes", [{"fsdp": 3}, {"data": 2, "fsdp": 2, "tensor": 1}, {"tensor": 16}])
def test_a_mesh_that_does_not_fit_is_refused(axes: dict[str, int]) -> None:
    with pytest.raises(InvalidMesh, match=r"spec\.mesh\.ici: .*8 devices"):
        resolve_mesh(MeshSpec(ici=IciAxes(**axes)), Topology(1, 2, 4))


def test_replicas_must_be_the_slices() -> None:
    with pytest.raises(InvalidMesh, match="set it to -1 or 2"):
        resolve_mesh(MeshSpec(dcn=DcnAxes(replica=4)), Topology(2, 1, 1))


LLAMA_8B = llama(32, 4096, 14336, 32, numKeyValueHeads=8)
LLAMA_70B = llama(80, 8192, 28672, 64, numKeyValueHeads=8)
LLAMA_405B = llama(126, 16384, 53248, 128, numKeyValueHeads=8)


def spec(accelerator: dict[str, object], model: dict[str, Any], **changes: object) -> TrainingRunSpec:
    return minimal_spec(
        spec__accelerator=accelerator,
        spec__model={"family": "llama"} | model,
        spec__tokenizer={"tokenizerJson": {"path": "t.json"}},
        spec__trainer__batchSize=4608,
        **changes,
    )


@pytest.mark.parametrize(
    ("kind", "topology", "model", "expected"),
    [
        # A model that is small for its devices is sharded over all of them, as without a suggestion.
        ("cpu", "2x4", LLAMA_405B, (1, 8, 1)),
        ("v5e", "2x2", {"numHiddenLayers": 12, "hiddenSize": 768}, (1, 4, 1)),
        ("v5e", "16x16", LLAMA_8B, (1, 256, 1)),
        ("v5p", "4x4x8", LLAMA_70B, (1, 128, 1)),
        ("h100", "2x8", LLAMA_8B, (1, 16, 1)),
        # The width is split over fsdp; the factor that does not divide it goes to data.
        ("v5p", "4x4x12", LLAMA_8B, (3, 64, 1)),
        ("v5e", "16x16", {"numHiddenLayers": 12, "hiddenSize": 576, "numAttentionHeads": 9}, (4, 64, 1)),
        ("gb200", "18x4", LLAMA_8B, (9, 8, 1)),
        # If a gathered block does not fit on one device beside its share of the state, the block is split over the
        # devices of a host.
        ("v5e", "8x16", LLAMA_70B, (1, 64, 2)),
        ("v6e", "16x16", LLAMA_405B, (1, 64, 4)),
        ("h100", "16x8", LLAMA_405B, (1, 32, 4)),
        # With more devices, each has a smaller share of the state, and room for a whole block again.
        ("v5e", "16x16", LLAMA_70B, (1, 256, 1)),
        ("h100", "64x8", LLAMA_405B, (1, 512, 1)),
        ("v7x", "4x8x8", LLAMA_405B, (1, 512, 1)),
        # The state alone is too large: no mesh helps.
        ("v5e", "16x16", LLAMA_405B, (1, 256, 1)),
    ],
)
def test_a_mesh_is_suggested_from_the_size_of_the_model(
    kind: str, topology: str, model: dict[str, Any], expected: tuple[int, int, int]
) -> None:
    mesh = run_mesh(spec({"type": kind, "topology": topology}, model))
    assert (mesh.data, mesh.fsdp, mesh.tensor) == expected


def test_the_parameter_count_of_a_model_matches_its_paper() -> None:
    size = model_shape(spec({"type": "v5e", "topology": "4x4"}, LLAMA_8B))
    assert 7.9e9 < size.parameters < 8.2e9
    gpt2 = minimal_spec(spec__model={"family": "gpt2"}, spec__tokenizer={"tiktoken": {"encoding": "gpt2"}})
    assert 1.23e8 < model_shape(gpt2).parameters < 1.25e8


def suggest(
    parameters: int, memory: int, *, block: int = 10**9, devices: int = 64, splits: tuple[int, ...] = (8,)
) -> tuple[int, int, int]:
    heads = tuple(Split("heads", "heads", split) for split in splits)
    axes = suggest_axes(
        ModelShape(8192, 1, parameters, block, block, 8192, (Split("parameters", "width", 8192), *heads)),
        state_bytes=16,
        gathered_bytes=8,
        devices=devices,
        devices_per_host=8,
        memory_bytes=memory,
    )
    return (axes.data, axes.fsdp, axes.tensor)


def test_the_suggested_mesh_is_exact_at_the_bounds_of_the_formula() -> None:
    # 16 bytes x 1e9 / 64 devices = 0.25e9 bytes of state; a block takes 8e9 / tensor bytes; 3/4 of the memory is
    # available for both.
    assert suggest(10**9, 11 * 10**9) == (1, 64, 1)
    assert suggest(10**9, 10 * 10**9) == (1, 32, 2)
    assert suggest(10**9, 5 * 10**9) == (1, 16, 4)
    assert suggest(10**9, 10**9) == (1, 8, 8), "the largest split, if none is enough"
    assert suggest(10**11, 10**9) == (1, 64, 1), "no mesh helps if the state alone is too large"
    assert suggest(10**9, 5 * 10**9, splits=(8, 6)) == (1, 32, 2), "the axis must divide the sizes that it splits"


def test_a_recorded_mesh_is_kept() -> None:
    plain = spec({"type": "v5e", "topology": "4x4"}, {"numHiddenLayers": 2, "hiddenSize": 64, "numAttentionHeads": 4})
    assert pinned(plain).mesh == MeshSpec(), "the default, for runs without a record"
    kept = pinned(plain, ResolvedMesh(replica=1, data=2, fsdp=4, tensor=2))
    assert kept.mesh == MeshSpec(ici=IciAxes(data=2, fsdp=4, tensor=2))
    assert pinned(kept, ResolvedMesh(replica=1, data=1, fsdp=16, tensor=1)) == kept, "a given mesh must not be replaced"
    assert pinned(plain, ResolvedMesh(replica=1, data=1, fsdp=8, tensor=1)).mesh == MeshSpec(), (
        "a mesh of another topology must not be used"
    )


def test_an_older_mesh_on_record_has_no_context_axis() -> None:
    old = {"replica": 1, "data": 2, "fsdp": 4, "tensor": 2}
    assert ResolvedMesh.model_validate(old).context == 1


def test_a_model_that_cannot_fit_is_refused() -> None:
    (problem,) = find_problems(spec({"type": "v5e", "topology": "2x2"}, LLAMA_8B))
    assert problem.field == "spec.model"
    assert problem.message.endswith(
        "each device has 17.2 GB: 30.1 GB are missing; choose a smaller model, or a topology with more memory"
    )
    assert find_problems(spec({"type": "v5e", "topology": "4x4"}, LLAMA_8B)) == ()
    assert find_problems(spec({"type": "cpu", "topology": "1x4"}, LLAMA_8B)) == (), (
        "the memory of a CPU device is not known"
    )


@pytest.mark.parametrize(("layers", "gathers"), [(12, True), (32, False)])
def test_all_parameters_are_gathered_once_only_where_there_is_room(layers: int, gathers: bool) -> None:
    """On v5p a device has 102 GB. The parameters, the sum of the gradients and those of a microbatch take 12 bytes for
    each parameter: 44 GB of a model of 3.7 billion parameters, 96 GB of one of 8 billion.
    """
    sizes = {"hiddenSize": 4096, "intermediateSize": 14_336, "numAttentionHeads": 32, "numKeyValueHeads": 8}
    spec = minimal_spec(
        spec__accelerator={"type": "v5p", "topology": "4x4x4", "provisioning": "spot"},
        spec__model={"family": "llama"} | sizes | {"numHiddenLayers": layers},
        spec__tokenizer={"bpe": {"vocabSize": 128_256}},
        spec__trainer={"steps": 10, "batchSize": 256, "sequenceLength": 8192, "microbatches": 4},
    )
    assert gathers_once(spec, fsdp=64, tensor=1) is gathers


def test_the_fields_of_a_mesh_are_the_rows_of_the_table() -> None:
    """A new axis needs one row, one field in its section, and one in the resolved mesh."""
    assert list(IciAxes.model_fields) == [row.name for row in on("ici")]
    assert list(DcnAxes.model_fields) == [row.name for row in on("dcn")]
    assert list(ResolvedMesh.model_fields) == [row.name for row in AXES]
    assert COMPUTE_AXES["batch"] == ("replica", "data", "fsdp", "expert")
    assert COMPUTE_AXES["position"] == "context"
    assert (PARAMETER_AXES["embed"], PARAMETER_AXES["vocab"]) == ("fsdp", "tensor")
    assert PARAMETER_AXES["experts"] == COMPUTE_AXES["experts"] == "expert"
    assert MESH_AXES == ("replica", "data", "fsdp", "expert", "context", "tensor")


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "custom"])
def test_every_family_has_a_shape(family: str) -> None:
    model = read_model({"family": family})
    shape = model.shape(64, 128)
    heads = set() if model.attention_needs is None else {"heads"}
    assert {split.axis for split in shape.splits} - {"experts"} == {"parameters", "features"} | heads
    assert ("experts" in {split.axis for split in shape.splits}) == (shape.idle_parameters > 0)
    fields = {info.alias for info in type(model).model_fields.values()}
    assert {split.field for split in shape.splits} <= fields, "error messages name these fields"


def test_the_width_of_a_shared_mlp_is_that_of_its_own_field() -> None:
    model = read_model({"family": "qwen3Next", "moeIntermediateSize": 48, "sharedExpertIntermediateSize": 14})
    splits = model.shape(64, 128).splits
    assert {(split.field, split.size) for split in splits if split.axis == "features"} == {
        ("moeIntermediateSize", 48),
        ("sharedExpertIntermediateSize", 14),
    }


def test_tests_that_train_have_a_small_model_of_each_kind() -> None:
    assert {*SMALL_FAMILIES, "custom", "whisper"} == set(FAMILIES)


def test_each_size_that_an_axis_splits_is_checked() -> None:
    wide = spec(
        {"type": "h100", "topology": "1x8"},
        {"numHiddenLayers": 1, "hiddenSize": 24, "intermediateSize": 30, "numAttentionHeads": 6, "numKeyValueHeads": 3},
    )
    found = find_problems(wide.model_copy(update={"mesh": MeshSpec(ici=IciAxes(fsdp=2, tensor=4))}))
    assert [problem.field for problem in found] == [
        "spec.model.intermediateSize",
        "spec.model.numKeyValueHeads",
    ]
    found = find_problems(
        wide.model_copy(update={"mesh": MeshSpec(ici=IciAxes(fsdp=8, tensor=1)), "model": odd_width()})
    )
    assert [problem.field for problem in found] == ["spec.model.hiddenSize"]


def odd_width() -> ModelSection:
    return read_model({"family": "llama", "numHiddenLayers": 1, "hiddenSize": 60, "numAttentionHeads": 6})
