"""Topology and mesh arithmetic, as tables."""

from __future__ import annotations

import pytest

from halcyon_api.spec.accelerator import TPU_TABLE, AcceleratorSpec, Topology
from halcyon_api.spec.mesh import DcnAxes, IciAxes, InvalidMesh, MeshSpec, resolve_mesh


@pytest.mark.parametrize(
    ("accelerator", "expected"),
    [
        (AcceleratorSpec(type="cpu"), Topology(1, 1, 1)),
        (AcceleratorSpec(type="cpu", topology="3x2", slices=4), Topology(4, 3, 2)),
        (AcceleratorSpec(type="v5e", topology="1x1"), Topology(1, 1, 1)),
        (AcceleratorSpec(type="v5e", topology="2x2"), Topology(1, 1, 4)),
        (AcceleratorSpec(type="v5e", topology="4x4", slices=2), Topology(2, 4, 4)),
        (AcceleratorSpec(type="v6e", topology="16x16"), Topology(1, 64, 4)),
    ],
)
def test_topology_of_an_accelerator(accelerator: AcceleratorSpec, expected: Topology) -> None:
    assert accelerator.resolve() == expected


def test_every_tpu_shape_has_as_many_chips_as_its_name_says() -> None:
    for generation in TPU_TABLE.values():
        for name, shape in generation.shapes.items():
            rows, columns = map(int, name.split("x"))
            assert shape.hosts * shape.chips_per_host == rows * columns
            assert shape.machine_type.endswith(f"-{shape.chips_per_host}t")


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
def test_the_rest_is_filled_in(axes: dict[str, int], devices: int, expected: tuple[int, int, int]) -> None:
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
