"""The device mesh: maps the axes of `ResolvedMesh` to the devices so that each axis uses the fastest possible links.

``replica`` is the outermost axis and spans slices, which only the data-centre network connects; ``data``, ``fsdp``,
``expert``, ``context`` and ``tensor`` lie inside a slice. TPU devices report their slice, and JAX maps axes to the
torus of a slice. Devices of all other platforms are used in process order: the operator numbers processes slice by
slice, so the n-th part of the devices is the n-th slice.

Axis types are ``Auto``: XLA propagates shardings from the parameters and from the few constraints that models set by
axis name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from halcyon.errors import BadConfiguration
from halcyon_api.spec.mesh import AXES, ResolvedMesh, on, product


class Device(Protocol):
    """The attributes of a ``jax.Device`` that this module uses."""

    @property
    def platform(self) -> str:
        """``cpu``, ``gpu`` or ``tpu``."""
        ...

    @property
    def process_index(self) -> int:
        """Process that the device belongs to."""
        ...

    @property
    def id(self) -> int:
        """Number among all devices."""
        ...


MESH_AXES = tuple(row.name for row in AXES)
"""Names of the mesh axes, outermost first."""


def axis_sizes(resolved: ResolvedMesh) -> tuple[int, ...]:
    """Sizes of `MESH_AXES`."""
    return resolved.sizes


def build_mesh(resolved: ResolvedMesh, devices: Sequence[Device] | None = None) -> Mesh:
    """The mesh of the run over all devices of all processes.

    Args:
        resolved: Sizes of the axes.
        devices: The devices to use. Default: all.

    Raises:
        BadConfiguration: The number of devices is not that of the mesh, or a slice is incomplete.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = axis_sizes(resolved)
    if len(devices) != math.prod(sizes):
        shape = product(dict(zip(MESH_AXES, sizes, strict=True)))
        raise BadConfiguration(
            f"spec.mesh: {shape} needs {math.prod(sizes)} devices but JAX sees {len(devices)} {devices[0].platform} "
            "devices; "
            "make spec.accelerator.topology and slices agree with the machines, or change the mesh"
        )
    slices = group_by_slice(devices, resolved.replica)
    within = tuple(resolved.size(row.name) for row in on("ici"))
    grid = np.stack([_arrange(members, within) for members in slices])
    return Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def group_by_slice(devices: Sequence[Device], slices: int) -> list[list[Device]]:
    """The devices of each slice, in the order of the slices.

    Raises:
        BadConfiguration: TPU devices report another number of slices, or slices of different sizes.
    """
    ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
    if devices[0].platform != "tpu":
        return [list(part) for part in np.split(np.array(ordered, dtype=object), slices)]
    groups: dict[int, list[Device]] = {}
    for device in ordered:
        groups.setdefault(getattr(device, "slice_index", 0), []).append(device)
    counts = {len(members) for members in groups.values()}
    if len(groups) != slices or len(counts) != 1:
        raise BadConfiguration(
            f"spec.accelerator.slices: the mesh has {slices} but the TPU devices report {len(groups)} slices of "
            f"{', '.join(map(str, sorted(counts)))} chips; set slices to what is allocated"
        )
    return [groups[index] for index in sorted(groups)]


def _arrange(members: list[Device], sizes: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """The devices of one slice as an array of shape `sizes`."""
    if members[0].platform != "tpu":
        return np.array(members, dtype=object).reshape(sizes)
    from jax.experimental import mesh_utils  # maps axes to the torus of each TPU generation

    return mesh_utils.create_device_mesh(sizes, members, allow_split_physical_axes=True)
