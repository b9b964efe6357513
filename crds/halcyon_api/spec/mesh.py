"""``spec.mesh``: how the devices are arranged into named axes.

Axes of ``ici`` are inside a slice, on the fast interconnect; axes of ``dcn`` span slices over the data-centre network.
An axis of size -1 gets the devices that the other axes leave. Operator and trainer both call `resolve_mesh` to compute
the sizes.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar

from pydantic import Field

from halcyon_api.axes import AXES, OF_PARAMETERS, REST, Link, axis, on, product, splitting
from halcyon_api.base import ApiModel, Rule, RuledModel
from halcyon_api.counting import counted
from halcyon_api.spec.accelerator import Topology

AxisSize = Annotated[int, Field(ge=-1, le=65_536)]


class InvalidMesh(ValueError):
    """The mesh does not fit the devices. The message is one sentence for the user."""


def _size(name: str) -> Any:
    """The field of the document for one axis."""
    return Field(default=axis(name).default, description=axis(name).description)


def _resolved(name: str, *default: int) -> Any:
    """The field of the resolved mesh for one axis."""
    return Field(*default, ge=1, description=f"{axis(name).meaning}.")


_SIZES = ", ".join(f"self.{row.name}" for row in on("ici"))


def _sizes(section: Any, link: Link) -> list[int]:
    return [getattr(section, row.name) for row in on(link)]


class IciAxes(RuledModel):
    """Axes inside one slice. Their product is the number of devices of a slice."""

    data: AxisSize = _size("data")
    fsdp: AxisSize = _size("fsdp")
    expert: AxisSize = _size("expert")
    context: AxisSize = _size("context")
    tensor: AxisSize = _size("tensor")

    rules: ClassVar = (
        Rule(
            f"[{_SIZES}].all(size, size != 0) && [{_SIZES}].filter(size, size == {REST}).size() <= 1",
            lambda self: 0 not in _sizes(self, "ici") and _sizes(self, "ici").count(REST) <= 1,
            "mesh.ici axes are positive, and at most one of them is -1",
        ),
    )


class DcnAxes(RuledModel):
    """Axes across slices. Their product is the number of slices."""

    replica: AxisSize = _size("replica")

    rules: ClassVar = (
        Rule(
            f"[{', '.join(f'self.{row.name}' for row in on('dcn'))}].all(size, size != 0)",
            lambda self: 0 not in _sizes(self, "dcn"),
            "mesh.dcn axes are positive or -1",
        ),
    )


class MeshSpec(ApiModel):
    """The logical device mesh."""

    ici: IciAxes = Field(default_factory=IciAxes, description="Axes inside a slice.")
    dcn: DcnAxes = Field(default_factory=DcnAxes, description="Axes across slices.")


class ResolvedMesh(ApiModel):
    """Sizes of all mesh axes, outermost first.

    Give a new axis the default 1, because recorded meshes do not have it.
    """

    replica: int = _resolved("replica")
    data: int = _resolved("data")
    fsdp: int = _resolved("fsdp")
    expert: int = _resolved("expert", 1)
    context: int = _resolved("context", 1)
    tensor: int = _resolved("tensor")

    def size(self, name: str) -> int:
        """Devices along an axis."""
        return int(getattr(self, name))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of all axes, in the order of `AXES`."""
        return tuple(self.size(row.name) for row in AXES)

    @property
    def data_parallelism(self) -> int:
        """Shards of the batch."""
        return math.prod(self.size(row.name) for row in splitting("batch"))

    @property
    def parameter_shards(self) -> int:
        """Number of devices over which one copy of the parameters is sharded."""
        return math.prod(self.size(row.name) for row in splitting(*OF_PARAMETERS))

    @property
    def devices_per_slice(self) -> int:
        """Devices of the mesh in one slice."""
        return math.prod(self.size(row.name) for row in on("ici"))

    @property
    def devices(self) -> int:
        """Devices of the mesh."""
        return math.prod(self.sizes)


def resolve_mesh(mesh: MeshSpec, topology: Topology) -> ResolvedMesh:
    """Replace every -1 by the size of the axis.

    Raises:
        InvalidMesh: The axes do not multiply to the devices of a slice, or to the slices.
    """
    ici: dict[str, int] = {row.name: getattr(mesh.ici, row.name) for row in on("ici")}
    fixed = math.prod(size for size in ici.values() if size > 0)
    rest = [name for name, size in ici.items() if size == REST]
    devices = topology.devices_per_slice
    if devices % fixed or (not rest and fixed != devices):
        sizes = product({name: size for name, size in ici.items() if size > 0})
        sizes += f" = {fixed}" if " x " in sizes else ""
        raise InvalidMesh(
            f"spec.mesh.ici: {sizes} does not {'divide' if rest else 'equal'} the {counted(devices, 'device')} of a "
            "slice; "
            f"choose axes whose product {'divides' if rest else 'is'} {devices}, or -1 for the rest"
        )
    ici |= dict.fromkeys(rest, devices // fixed)
    replica = topology.slices if mesh.dcn.replica == REST else mesh.dcn.replica
    if replica != topology.slices:
        raise InvalidMesh(
            f"spec.mesh.dcn.replica: {replica} is not the number of slices, {topology.slices}; set it to -1 or "
            f"{topology.slices}"
        )
    return ResolvedMesh(replica=replica, **ici)
