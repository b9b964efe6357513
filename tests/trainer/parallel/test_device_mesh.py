"""The place of each device in the mesh."""

from dataclasses import dataclass

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from halcyon.host.errors import BadConfiguration
from halcyon.parallel.device_mesh import MESH_AXES, build_mesh, group_by_slice
from halcyon_api.spec.mesh import ResolvedMesh


@dataclass(frozen=True)
class Chip:
    """The attributes of a device that `group_by_slice` reads."""

    id: int
    process_index: int = 0
    slice_index: int = 0
    platform: str = "tpu"


def ids(groups):
    return [[device.id for device in group] for group in groups]


def test_axes_are_laid_out_outermost_first():
    mesh = build_mesh(ResolvedMesh(replica=2, data=1, fsdp=2, tensor=2))
    assert mesh.axis_names == MESH_AXES == ("replica", "data", "fsdp", "expert", "context", "tensor")
    assert dict(mesh.shape) == {"replica": 2, "data": 1, "fsdp": 2, "expert": 1, "context": 1, "tensor": 2}
    np.testing.assert_array_equal(np.vectorize(lambda device: device.id)(mesh.devices).ravel(), np.arange(8))


def test_xla_propagates_the_shardings_of_all_axes():
    assert set(build_mesh(ResolvedMesh(replica=1, data=1, fsdp=8, tensor=1)).axis_types) == {AxisType.Auto}


def test_a_mesh_can_use_fewer_devices():
    mesh = build_mesh(ResolvedMesh(replica=1, data=1, fsdp=2, tensor=1), jax.devices()[:2])
    assert mesh.size == 2


def test_a_mesh_that_the_devices_do_not_fill_is_refused():
    with pytest.raises(BadConfiguration) as refusal:
        build_mesh(ResolvedMesh(replica=2, data=1, fsdp=4, tensor=2))
    assert str(refusal.value) == (
        "spec.mesh: replica 2 x fsdp 4 x tensor 2 needs 16 devices but JAX sees 8 cpu devices; make "
        "spec.accelerator.topology and slices agree with the machines, or change the mesh"
    )


def test_without_slice_indices_the_order_of_processes_makes_the_slices():
    devices = [Chip(number, process_index=number % 4, platform="cpu") for number in range(8)]
    assert ids(group_by_slice(devices, 2)) == [[0, 4, 1, 5], [2, 6, 3, 7]]


def test_tpu_slices_follow_the_slice_indices_of_the_chips():
    """Here slice 1 holds the lower process indices."""
    chips = [Chip(number, process_index=number // 2, slice_index=1 - number // 4) for number in range(8)]
    assert ids(group_by_slice(chips, 2)) == [[4, 5, 6, 7], [0, 1, 2, 3]]


@pytest.mark.parametrize(
    ("slice_of", "found"),
    [([0, 0, 1, 1], "2 slices of 2 chips"), ([0, 1, 1, 1], "2 slices of 1, 3 chips"), ([0] * 4, "1 slices of 4 chips")],
)
def test_slices_that_differ_from_the_spec_are_rejected(slice_of, found):
    wanted = 2 if found.startswith("2 slices of 1") else 4
    with pytest.raises(
        BadConfiguration, match=f"spec.accelerator.slices: the mesh has {wanted} but the TPU devices report {found}"
    ):
        group_by_slice([Chip(number, slice_index=index) for number, index in enumerate(slice_of)], wanted)
