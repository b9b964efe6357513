"""``spec.mesh``: how the devices are arranged into named axes.

Axes of ``ici`` lie inside a slice, where the fast interconnect is; axes of ``dcn`` span slices over the data-centre network. A size of
-1 takes the rest. `resolve_mesh` is the one place that turns the section into numbers: operator and trainer both call it.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from halcyon_api.base import ApiModel, cel
from halcyon_api.counting import counted
from halcyon_api.spec.accelerator import Topology

AxisSize = Annotated[int, Field(ge=-1, le=65_536)]


class InvalidMesh(ValueError):
    """The mesh does not fit the devices. The message is one sentence for the user."""


class IciAxes(ApiModel):
    """Axes inside one slice. Their product is the number of devices of a slice."""

    data: AxisSize = Field(default=1, description="Data parallelism with replicated parameters. -1: the rest.")
    fsdp: AxisSize = Field(
        default=-1, description="Data parallelism with parameters and optimizer state sharded over the axis. -1: the rest."
    )
    tensor: AxisSize = Field(default=1, description="Tensor parallelism: heads and MLP are split over the axis. -1: the rest.")

    cel_rules: ClassVar = (
        cel(
            "self.data != 0 && self.fsdp != 0 && self.tensor != 0 && "
            "[self.data, self.fsdp, self.tensor].filter(size, size == -1).size() <= 1",
            "mesh.ici axes are positive, and at most one of them is -1",
        ),
    )

    @model_validator(mode="after")
    def _one_rest(self) -> Self:
        sizes = (self.data, self.fsdp, self.tensor)
        if 0 in sizes or sizes.count(-1) > 1:
            raise ValueError("mesh.ici axes are positive, and at most one of them is -1")
        return self


class DcnAxes(ApiModel):
    """Axes across slices. Their product is the number of slices."""

    replica: AxisSize = Field(default=-1, description="Data parallelism across slices. -1: all slices.")

    cel_rules: ClassVar = (cel("self.replica != 0", "mesh.dcn.replica is positive or -1"),)

    @model_validator(mode="after")
    def _not_zero(self) -> Self:
        if self.replica == 0:
            raise ValueError("mesh.dcn.replica is positive or -1")
        return self


class MeshSpec(ApiModel):
    """The logical device mesh."""

    ici: IciAxes = Field(default_factory=IciAxes, description="Axes inside a slice.")
    dcn: DcnAxes = Field(default_factory=DcnAxes, description="Axes across slices.")


class ResolvedMesh(ApiModel):
    """Sizes of all mesh axes, outermost first."""

    replica: int = Field(ge=1, description="Data parallelism across slices.")
    data: int = Field(ge=1, description="Data parallelism inside a slice, parameters replicated.")
    fsdp: int = Field(ge=1, description="Data parallelism inside a slice, parameters sharded.")
    tensor: int = Field(ge=1, description="Tensor parallelism inside a slice.")

    @property
    def data_parallelism(self) -> int:
        """Into how many shards the batch is split."""
        return self.replica * self.data * self.fsdp

    @property
    def devices(self) -> int:
        """Devices of the mesh."""
        return self.data_parallelism * self.tensor


def resolve_mesh(mesh: MeshSpec, topology: Topology) -> ResolvedMesh:
    """Replace every -1 by its number.

    Raises:
        InvalidMesh: The axes do not multiply to the devices of a slice, or to the slices.
    """
    ici = {"data": mesh.ici.data, "fsdp": mesh.ici.fsdp, "tensor": mesh.ici.tensor}
    fixed = math.prod(size for size in ici.values() if size > 0)
    rest = [name for name, size in ici.items() if size == -1]
    devices = topology.devices_per_slice
    if devices % fixed or (not rest and fixed != devices):
        sizes = " x ".join(f"{name} {size}" for name, size in ici.items() if size > 0)
        raise InvalidMesh(
            f"spec.mesh.ici: {sizes} = {fixed} does not {'divide' if rest else 'equal'} the {counted(devices, 'device')} of a slice; "
            f"choose axes whose product {'divides' if rest else 'is'} {devices}, or -1 for the rest"
        )
    for name in rest:
        ici[name] = devices // fixed
    replica = topology.slices if mesh.dcn.replica == -1 else mesh.dcn.replica
    if replica != topology.slices:
        raise InvalidMesh(
            f"spec.mesh.dcn.replica: {replica} is not the number of slices, {topology.slices}; set it to -1 or {topology.slices}"
        )
    return ResolvedMesh(replica=replica, data=ici["data"], fsdp=ici["fsdp"], tensor=ici["tensor"])
