"""The device mesh: maps the axes of `ResolvedMesh` to the devices so that each axis uses the fastest possible links.

``replica`` is the outermost axis and spans slices, which only the data-centre network connects; ``data``, ``fsdp``,
``expert``, ``context`` and ``tensor`` lie inside a slice. TPU devices report their slice, and JAX maps axes to the
torus of a slice. Devices of all other platforms are used in process order: the operator numbers processes slice by
slice, so the n-th part of the devices is the n-th slice.

Axis types are ``Auto``: XLA propagates shardings from the parameters and from the few constraints that models set by
axis name.

`tensor_mesh` divides a model that writes text among several devices of one process (tensor parallelism, Shoeybi et al.
2019): its heads, the features of the MLP and the vocabulary, and with the heads the cache. All devices compute all
texts together. An engine finds the mesh in the arrays of its model.
"""

import contextlib
import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding

from halcyon.host.errors import BadConfiguration
from halcyon.parallel.axes import undivided, with_shardings
from halcyon.parallel.partition import computing
from halcyon_api.counting import counted
from halcyon_api.spec.mesh import AXES, ResolvedMesh, on, product

MESH_AXES = tuple(row.name for row in AXES)
"""Names of the mesh axes, outermost first."""
_FORM = re.compile(r"tensor=([1-9][0-9]{0,3})")


def build_mesh(resolved: ResolvedMesh, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh of the run over all devices of all processes.

    Args:
        resolved: Sizes of the axes.
        devices: The devices to use. Default: all.

    Raises:
        BadConfiguration: The number of devices is not that of the mesh, or a slice is incomplete.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = resolved.sizes
    if len(devices) != math.prod(sizes):
        shape = product(dict(zip(MESH_AXES, sizes, strict=True)))
        raise BadConfiguration(
            f"spec.mesh: {shape} needs {math.prod(sizes)} devices but JAX sees {len(devices)} {devices[0].platform} "
            "devices; make spec.accelerator.topology and slices agree with the machines, or change the mesh"
        )
    slices = group_by_slice(devices, resolved.replica)
    within = tuple(resolved.size(row.name) for row in on("ici"))
    grid = np.stack([_arrange(members, within) for members in slices])
    return Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def group_by_slice(devices: Sequence[Any], slices: int) -> list[list[Any]]:
    """The devices of each slice, in the order of the slices.

    Raises:
        BadConfiguration: TPU devices report another number of slices, or slices of different sizes.
    """
    ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
    if devices[0].platform != "tpu":
        return [list(part) for part in np.split(np.array(ordered, dtype=object), slices)]
    groups: dict[int, list[Any]] = {}
    for device in ordered:
        groups.setdefault(getattr(device, "slice_index", 0), []).append(device)
    counts = {len(members) for members in groups.values()}
    if len(groups) != slices or len(counts) != 1:
        raise BadConfiguration(
            f"spec.accelerator.slices: the mesh has {slices} but the TPU devices report {len(groups)} slices of "
            f"{', '.join(map(str, sorted(counts)))} chips; set slices to what is allocated"
        )
    return [groups[index] for index in sorted(groups)]


def _arrange(members: list[Any], sizes: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """The devices of one slice as an array of shape `sizes`."""
    if members[0].platform != "tpu":
        return np.array(members, dtype=object).reshape(sizes)
    from jax.experimental import mesh_utils  # maps axes to the torus of each TPU generation

    return mesh_utils.create_device_mesh(sizes, members, allow_split_physical_axes=True)


def tensor_mesh(text: str) -> Mesh:
    """The mesh of the option ``--mesh``.

    Args:
        text: ``tensor=N``: the model is divided among N devices.

    Raises:
        BadConfiguration: It has another form, or this process has fewer devices.
    """
    form = _FORM.fullmatch(text)
    if form is None:
        raise BadConfiguration(
            f"--mesh {text}: only the axis tensor can divide a model that writes text; give tensor=N, such as tensor=2"
        )
    count, devices = int(form[1]), jax.local_devices()
    if count > len(devices):
        raise BadConfiguration(
            f"--mesh {text}: this process has {counted(len(devices), 'device')}; give tensor={len(devices)} or less"
        )
    return build_mesh(ResolvedMesh(replica=1, data=1, fsdp=1, tensor=count), devices[:count])


def with_mesh(shapes: Any, mesh: Mesh) -> Any:
    """The shapes of a model, with the part of each device.

    Args:
        shapes: The model, with shapes in the place of arrays.
        mesh: A mesh of `tensor_mesh`.

    Raises:
        BadConfiguration: The mesh does not divide an axis of the model.
    """
    uneven = undivided(shapes, mesh)
    if uneven is not None:
        raise BadConfiguration(
            f"--mesh: tensor={uneven.parts} does not divide the {uneven.axis.size} {uneven.axis.name} of the model; "
            f"give a divisor of {uneven.axis.size}"
        )
    return with_shardings(shapes, mesh)


def mesh_of(model: Any) -> Mesh | None:
    """The mesh among whose devices a model is divided by `with_mesh`; None: it is not divided so."""
    for leaf in jax.tree.leaves(model):
        sharding = getattr(leaf, "sharding", None)
        if isinstance(sharding, NamedSharding) and sharding.mesh.size > 1:
            mesh = sharding.mesh
            return mesh if isinstance(mesh, Mesh) and dict(mesh.shape).get("tensor") == mesh.size else None
    return None


def context_of(mesh: Mesh | None) -> contextlib.AbstractContextManager[None]:
    """The context in which the programs of a model are traced and called."""
    return contextlib.nullcontext() if mesh is None else computing(mesh)
