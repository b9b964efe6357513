"""``spec.mesh``: how the devices are arranged into named axes, and the table of these axes.

Axes of ``ici`` are inside a slice, on the fast interconnect; axes of ``dcn`` span slices over the data-centre network.
An axis of size -1 gets the devices that the other axes leave. Operator and trainer both call `resolve_mesh` to compute
the sizes.

The sections ``mesh.ici`` and ``mesh.dcn`` and the resolved mesh have one field for each row of the table. Sizes, rules,
the trainer's device mesh and its shardings use the table. A new axis is one row, and a field in its section and in the
resolved mesh.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from halcyon_api.base import ApiModel, Rule, RuledModel
from halcyon_api.counting import counted
from halcyon_api.spec.accelerator import Topology

LogicalAxis = Literal["batch", "position", "heads", "features", "vocabulary", "experts", "parameters"]
"""An axis that can be split: sequences of a batch, positions of a sequence, attention heads, features inside an MLP,
tokens of the vocabulary, experts, and the residual stream's width in stored parameters, which are gathered before their
use."""

Link = Literal["ici", "dcn"]
"""``ici``: the fast interconnect inside a slice. ``dcn``: the data-centre network between slices."""

REST = -1
"""Size of an axis that gets the devices which the other axes leave."""


@dataclass(frozen=True)
class MeshAxis:
    """One axis of the device mesh."""

    name: str
    link: Link
    splits: tuple[LogicalAxis, ...]
    default: int
    """Size if the document sets none."""
    meaning: str

    @property
    def path(self) -> str:
        """Path of its field below ``spec``."""
        return f"mesh.{self.link}.{self.name}"

    @property
    def description(self) -> str:
        """Description of the document's field."""
        rest = "all slices" if self.link == "dcn" else "the rest"
        return f"{self.meaning}. {REST}: {rest}."


AXES: tuple[MeshAxis, ...] = (
    MeshAxis("replica", "dcn", ("batch",), REST, "Data parallelism across slices"),
    MeshAxis("data", "ici", ("batch",), 1, "Data parallelism with replicated parameters"),
    MeshAxis(
        "fsdp",
        "ici",
        ("batch", "parameters"),
        REST,
        "Data parallelism with parameters and optimizer state sharded over the axis",
    ),
    MeshAxis(
        "expert",
        "ici",
        ("batch", "experts"),
        1,
        "Expert parallelism: experts are split over the axis, and tokens sent to them; all else is replicated",
    ),
    MeshAxis(
        "context",
        "ici",
        ("position",),
        1,
        "Context parallelism: positions of a sequence are split over the axis, and attention passes keys and values "
        "around it",
    ),
    MeshAxis(
        "tensor",
        "ici",
        ("heads", "features", "vocabulary"),
        1,
        "Tensor parallelism: heads, MLP and vocabulary are split over the axis",
    ),
)
"""Outermost first: neighbours on the last axis use the fastest links."""

OF_PARAMETERS: frozenset[LogicalAxis] = frozenset({"heads", "features", "vocabulary", "experts", "parameters"})
"""Logical axes of parameters. A mesh axis that splits one of them shards the model."""


def axis(name: str) -> MeshAxis:
    """The row of an axis."""
    return next(row for row in AXES if row.name == name)


def on(link: Link) -> tuple[MeshAxis, ...]:
    """The axes on a kind of link, outermost first."""
    return tuple(row for row in AXES if row.link == link)


def splitting(*logical: LogicalAxis) -> tuple[MeshAxis, ...]:
    """The mesh axes that split at least one of the given logical axes, outermost first."""
    return tuple(row for row in AXES if set(row.splits) & set(logical))


def product(sizes: Mapping[str, int]) -> str:
    """Sizes as users read them, such as ``replica 2 x fsdp 4``: without axes of size 1, unless there is no other."""
    shown = {name: size for name, size in sizes.items() if size != 1} or dict([*sizes.items()][-1:])
    return " x ".join(f"{name} {size}" for name, size in shown.items())


AxisSize = Annotated[int, Field(ge=-1, le=65_536)]


class InvalidMesh(ValueError):
    """The mesh does not fit the devices. The message is one sentence for the user."""


def _size(name: str) -> Any:
    """The field of the document for one axis."""
    return Field(default=axis(name).default, description=axis(name).description)


def _resolved(name: str, *default: int) -> Any:
    """The field of the resolved mesh for one axis."""
    return Field(*default, ge=1, description=f"See spec.{axis(name).path}.")


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
            "mesh.ici axes are positive, and at most one of them is -1",
            check=lambda self: 0 not in _sizes(self, "ici") and _sizes(self, "ici").count(REST) <= 1,
        ),
    )


class DcnAxes(RuledModel):
    """Axes across slices. Their product is the number of slices."""

    replica: AxisSize = _size("replica")

    rules: ClassVar = (
        Rule(
            f"[{', '.join(f'self.{row.name}' for row in on('dcn'))}].all(size, size != 0)",
            "mesh.dcn axes are positive or -1",
        ),
    )


class MeshSpec(ApiModel):
    """The logical device mesh."""

    ici: IciAxes = Field(default_factory=IciAxes)
    """Axes inside a slice."""
    dcn: DcnAxes = Field(default_factory=DcnAxes)
    """Axes across slices."""


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
            f"slice; choose axes whose product {'divides' if rest else 'is'} {devices}, or -1 for the rest"
        )
    ici |= dict.fromkeys(rest, devices // fixed)
    replica = topology.slices if mesh.dcn.replica == REST else mesh.dcn.replica
    if replica != topology.slices:
        raise InvalidMesh(
            f"spec.mesh.dcn.replica: {replica} is not the number of slices, {topology.slices}; set it to -1 or "
            f"{topology.slices}"
        )
    return ResolvedMesh(replica=replica, **ici)
