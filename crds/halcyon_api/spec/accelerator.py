"""``spec.accelerator``: which machines the run asks for, and what each topology consists of.

The TPU rows are those of Google's machine catalogue for GKE (node label, machine type, chips of a virtual machine). A slice whose chips
fit one machine has one host; a larger one has four chips a host. A ``cpu`` topology has no hardware to name: it is written
``HOSTSxDEVICES``, so that the same mesh can be tried on any machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from halcyon_api.base import ApiModel, ObjectName, Quantity, cel

AcceleratorType = Literal["cpu", "v5e", "v6e"]
Provisioning = Literal["onDemand", "spot", "reservation", "flexStart"]

MAX_SLICES = 256
MAX_CPU_HOSTS = 1024
MAX_CPU_DEVICES = 64


@dataclass(frozen=True)
class TpuShape:
    """One topology of a TPU generation on GKE."""

    machine_type: str
    chips_per_host: int
    hosts: int


@dataclass(frozen=True)
class TpuGeneration:
    """One row of the TPU table: the node label's value and the shapes that exist."""

    node_label: str
    peak_flops_per_second: float
    """Dense bfloat16 operations of one chip, as Google's system architecture pages state them."""
    shapes: dict[str, TpuShape]


def _generation(node_label: str, machine: str, peak_flops_per_second: float, topologies: tuple[str, ...]) -> TpuGeneration:
    shapes: dict[str, TpuShape] = {}
    for topology in topologies:
        chips = math.prod(int(side) for side in topology.split("x"))
        chips_per_host = 1 if chips == 1 else 4
        shapes[topology] = TpuShape(f"{machine}-{chips_per_host}t", chips_per_host, chips // chips_per_host)
    return TpuGeneration(node_label, peak_flops_per_second, shapes)


TPU_TABLE: dict[str, TpuGeneration] = {
    "v5e": _generation("tpu-v5-lite-podslice", "ct5lp-hightpu", 197e12, ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")),
    "v6e": _generation("tpu-v6e-slice", "ct6e-standard", 918e12, ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")),
}
"""TPU generations by ``accelerator.type``. One chip is one JAX device in both generations."""


@dataclass(frozen=True)
class Topology:
    """What an accelerator section amounts to: identical slices of identical hosts."""

    slices: int
    hosts_per_slice: int
    devices_per_host: int

    @property
    def devices_per_slice(self) -> int:
        """JAX devices of one slice."""
        return self.hosts_per_slice * self.devices_per_host

    @property
    def devices(self) -> int:
        """JAX devices of the whole run."""
        return self.slices * self.devices_per_slice

    @property
    def processes(self) -> int:
        """Trainer processes of the whole run: one for each host."""
        return self.slices * self.hosts_per_slice


class HostResources(ApiModel):
    """CPU and memory of one host, requested and limited alike."""

    cpu: Quantity | None = Field(default=None, description="Processors of one host, such as `2` or `500m`.")
    memory: Quantity | None = Field(default=None, description="Memory of one host, such as `4Gi`.")


def _topology_rule(name: str, generation: TpuGeneration) -> dict[str, str]:
    known = list(generation.shapes)
    quoted = ", ".join(f"'{topology}'" for topology in known)
    return cel(
        f"self.type != '{name}' || self.topology in [{quoted}]",
        f"topology of {name} must be one of {', '.join(known)}",
        field_path=".topology",
    )


class AcceleratorSpec(ApiModel):
    """The hardware of the run: so many slices of one topology of one type."""

    type: AcceleratorType = Field(description="Kind of device: `cpu` (any node, for trying a run out), `v5e` or `v6e` (TPU slices on GKE).")
    topology: Annotated[str, StringConstraints(max_length=16, pattern=r"^[1-9][0-9]*x[1-9][0-9]*$")] = Field(
        default="1x1",
        description=(
            "Shape of one slice. TPU: the chip topology as GKE names it, such as `4x4`. cpu: HOSTSxDEVICES, such as `2x4` for two "
            "hosts with four JAX devices each."
        ),
    )
    slices: Annotated[int, Field(ge=1, le=MAX_SLICES)] = Field(
        default=1, description="How many identical slices train together. Data parallelism spans them (`mesh.dcn.replica`)."
    )
    provisioning: Provisioning = Field(
        default="onDemand",
        description="How TPU capacity is bought: `onDemand`, `spot`, `reservation` (with `reservation`) or `flexStart`.",
    )
    reservation: ObjectName | None = Field(default=None, description="Name of the reservation, with `provisioning: reservation`.")
    host_resources: HostResources = Field(default_factory=HostResources, description="CPU and memory of each host's trainer container.")

    cel_rules: ClassVar = (
        *(_topology_rule(name, generation) for name, generation in TPU_TABLE.items()),
        cel(
            f"self.type != 'cpu' || (int(self.topology.split('x')[0]) <= {MAX_CPU_HOSTS} && "
            f"int(self.topology.split('x')[1]) <= {MAX_CPU_DEVICES})",
            f"topology of cpu is HOSTSxDEVICES with at most {MAX_CPU_HOSTS} hosts and {MAX_CPU_DEVICES} devices a host",
            field_path=".topology",
        ),
        cel(
            "(self.provisioning == 'reservation') == has(self.reservation)",
            "set reservation together with provisioning: reservation, and only then",
            field_path=".reservation",
        ),
        cel(
            "self.type != 'cpu' || self.provisioning == 'onDemand'",
            "provisioning is bought for TPU types only; leave it out for type cpu",
            field_path=".provisioning",
        ),
    )

    @model_validator(mode="after")
    def _exists(self) -> Self:
        if self.type == "cpu":
            hosts, devices = (int(side) for side in self.topology.split("x"))
            if hosts > MAX_CPU_HOSTS or devices > MAX_CPU_DEVICES:
                raise ValueError(
                    f"topology of cpu is HOSTSxDEVICES with at most {MAX_CPU_HOSTS} hosts and {MAX_CPU_DEVICES} devices a host, "
                    f"not {self.topology}"
                )
            if self.provisioning != "onDemand":
                raise ValueError("provisioning is bought for TPU types only; leave it out for type cpu")
        elif self.topology not in TPU_TABLE[self.type].shapes:
            raise ValueError(f"topology of {self.type} must be one of {', '.join(TPU_TABLE[self.type].shapes)}, not {self.topology}")
        if (self.provisioning == "reservation") != (self.reservation is not None):
            raise ValueError("set reservation together with provisioning: reservation, and only then")
        return self

    def resolve(self) -> Topology:
        """Slices, hosts and devices that this section asks for."""
        if self.type == "cpu":
            hosts, devices = (int(side) for side in self.topology.split("x"))
            return Topology(self.slices, hosts, devices)
        shape = TPU_TABLE[self.type].shapes[self.topology]
        return Topology(self.slices, shape.hosts, shape.chips_per_host)
