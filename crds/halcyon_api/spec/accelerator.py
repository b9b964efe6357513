"""``spec.accelerator``: the hardware of a run.

The table of accelerator types is in `halcyon_api.hardware`. TPU topologies have the names of GKE. All other types have
a topology ``HOSTSxDEVICES``: GPUs, and ``cpu``, with which any mesh can be tried on any machine.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, StringConstraints

from halcyon_api.base import ApiModel, ObjectName, Quantity, Rule, RuledModel, optional, shows
from halcyon_api.hardware import TABLE, suggestion
from halcyon_api.hardware.kinds import CHIPS_OF_A_CUBE, Accelerator, Provisioning
from halcyon_api.spec.fabric import FabricName, built_in_fabrics

MAX_SLICES = 256


def _known(name: str) -> str:
    if name in TABLE:
        return name
    near = suggestion(name)
    meant = f"did you mean {near}? " if near is not None else ""
    raise ValueError(
        f"unknown accelerator '{name[:40]}'; {meant}there are {', '.join(TABLE)}; nvidia is any other NVIDIA GPU"
    )


ProjectId = Annotated[str, StringConstraints(max_length=30, pattern=r"^[a-z][a-z0-9-]{4,28}[a-z0-9]$")]
"""ID of a Google Cloud project."""

AcceleratorType = Annotated[str, AfterValidator(_known), Field(json_schema_extra={"enum": list(TABLE)})]
"""Name of a row of the hardware table."""


@dataclass(frozen=True)
class Topology:
    """The machines of an accelerator section: identical slices of identical hosts."""

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
    """CPU, memory and local disk of one host: both the request and the limit."""

    cpu: Quantity | None = None
    """CPUs of one host, such as `2` or `500m`. Default: half of its CPUs, without a limit."""
    memory: Quantity | None = None
    """Memory of one host, such as `4Gi`. Default: by accelerator type, see docs/hardware.md."""
    ephemeral_storage: Quantity | None = None
    """Local disk of one host, such as `20Gi`. A pod that uses more is evicted. Default: no limit."""


_SIDES = "self.topology.split('x')"


def _exists(row: Accelerator) -> str:
    """The expression that a type has the topology of the section."""
    if row.family == "tpu":
        exists = f"self.topology in {list(row.topologies)}"
        if row.max_cubes:
            rising = " && sides.isSorted()" if row.rising_sides else ""
            cubes = (
                "sides.all(side, side % 4 == 0) && sides[0] * sides[1] * sides[2] <= "
                f"{row.max_cubes * CHIPS_OF_A_CUBE}{rising}"
            )
            # CEL has no variables: a list with the list of the sides stands for one.
            exists += f" || [{_SIDES}.map(side, int(side))].all(sides, sides.size() == 3 && {cubes})"
        return exists
    counts = ", ".join(map(str, row.devices_per_host))
    has = f"int({_SIDES}[1]) in [{counts}]" if counts else f"int({_SIDES}[1]) <= {row.max_devices_per_host}"
    return f"{_SIDES}.size() == 2 && int({_SIDES}[0]) <= {row.max_hosts} && {has}"


def _topology_rules() -> Iterator[Rule]:
    """One rule for the types that have the same topologies."""
    names: dict[tuple[str, str], list[str]] = {}
    for row in TABLE.values():
        names.setdefault((_exists(row), row.topology_sentence), []).append(row.name)
    for (exists, sentence), types in names.items():
        yield _topology_rule(types, exists, sentence)


def _topology_rule(types: list[str], exists: str, sentence: str) -> Rule:
    return Rule(
        f"!(self.type in {types}) || {exists}",
        f"topology of {', '.join(types)} {sentence}",
        ".topology",
        shows("topology"),
        check=lambda self: self.type not in types or self.row.shape(self.topology) is not None,
    )


_BOUGHT_KINDS = ("spot", "reservation", "flexStart", "queued")
_FABRICS = tuple(row.name for row in TABLE.values() if row.fabric is not None)
_NOT_GPUS = [row.name for row in TABLE.values() if row.family != "gpu"]
_COMPUTE_DOMAINS = tuple(row.name for row in TABLE.values() if row.compute_domain)
_PARTS = {row.name: row for row in TABLE.values() if row.part_hosts_provisioning}
_PART_FABRICS = tuple(row for row in TABLE.values() if row.fabric is not None and len(row.devices_per_host) > 1)


def _part_bought_rule(row: Accelerator) -> Rule:
    kinds = " or ".join(row.part_hosts_provisioning)
    return Rule(
        f"self.type != '{row.name}' || {_WHOLE_HOSTS.format(row.largest_host)} || "
        f"self.provisioning in {list(row.part_hosts_provisioning)}",
        f"hosts of {row.name} with fewer than {row.largest_host} devices are sold as {kinds} only; set provisioning, "
        "or use whole hosts",
        ".provisioning",
    )


def _part_fabric_rule(row: Accelerator) -> Rule:
    return Rule(
        f"self.network == 'standard' || self.type != '{row.name}' || {_WHOLE_HOSTS.format(row.largest_host)}",
        f"network gpuDirect of {row.name} exists for hosts with {row.largest_host} devices only; leave it out, or use "
        "whole hosts",
        ".network",
    )


_WHOLE_HOSTS = f"int({_SIDES}[1]) == {{0}}"


_SLICES_OF_ONE_HOST = {
    row.name: tuple(name for name in row.topologies if (shape := row.shape(name)) is not None and shape.hosts == 1)
    for row in TABLE.values()
    if row.family == "tpu" and "flexStart" in row.provisioning
}
_FLEX_START = (
    "topology of a TPU slice with provisioning flexStart must have one host ("
    + "; ".join(f"{name}: {', '.join(topologies)}" for name, topologies in _SLICES_OF_ONE_HOST.items())
    + "), because GKE starts no others that way; set provisioning: queued for a slice of several hosts"
)


_FLEX_START_SLICES = [
    f"{name} {topology}" for name, topologies in _SLICES_OF_ONE_HOST.items() for topology in topologies
]


def _bought_rules() -> Iterator[Rule]:
    """One rule for the kinds of provisioning that exist for the same types."""
    kinds: dict[tuple[str, ...], list[str]] = {}
    for kind in _BOUGHT_KINDS:
        kinds.setdefault(tuple(row.name for row in TABLE.values() if kind in row.provisioning), []).append(kind)
    yield from map(_bought_rule, kinds.values(), kinds)


def _bought_rule(kinds: list[str], names: tuple[str, ...]) -> Rule:
    return Rule(
        f"!(self.provisioning in {kinds}) || self.type in {list(names)}",
        f"provisioning {' and '.join(kinds)} {'exists' if len(kinds) == 1 else 'exist'} for some types only "
        "(docs/hardware.md); leave it out, and choose nodes of cpu or nvidia by scheduling.nodeSelector",
        ".provisioning",
        lambda _: f"; the types are {', '.join(names)}",
    )


class Hardware(RuledModel):
    """Identical slices of one topology and one accelerator type, and how they are bought."""

    type: AcceleratorType
    """`cpu` (any node, to try a run), a TPU generation on GKE, a GPU, or `nvidia` (any nodes that offer
    nvidia.com/gpu). See docs/hardware.md."""
    topology: Annotated[str, StringConstraints(max_length=16, pattern=r"^[1-9][0-9]*x[1-9][0-9]*(x[1-9][0-9]*)?$")] = (
        "1x1"
    )
    """Shape of one slice. TPU: as GKE names it, such as `4x4` or `4x4x8`. GPU and cpu: HOSTSxDEVICES, such as `2x8` for
    two hosts with eight devices each."""
    slices: Annotated[int, Field(ge=1, le=MAX_SLICES)] = 1
    """Slices that train together, by data parallelism (`mesh.dcn.replica`)."""
    provisioning: Provisioning = "onDemand"
    """How capacity is bought on GKE: `onDemand`, `spot`, `reservation`, `flexStart`, or `queued` (flex-start with
    queued provisioning: all nodes at once; needs `scheduling.queue`)."""
    reservation: ObjectName | None = None
    """Name of the reservation, with `provisioning: reservation`."""
    reservation_project: ProjectId | None = None
    """Project that owns the reservation, if it is not the cluster's project."""
    fabric: FabricName | None = None
    """Network of the GPUs in a cluster that is not GKE's: a built-in one of docs/hardware.md, such as `eks-p5`, or one
    of the operator's owner."""
    network: Literal["standard", "gpuDirect"] = "standard"
    """Network between GPUs of several hosts: `standard` (the pod's), or `gpuDirect` (the machine's fast fabric; needs
    directories of the node, some machines a sidecar that runs as root, and the operator's permission)."""
    compute_domain: ObjectName | None = None
    """gb200 and gb300: name of the ResourceClaimTemplate of a ComputeDomain in the namespace, so that NVLink connects
    the hosts."""
    price_per_chip_hour: float | None = optional(ge=0, le=100_000)
    """Price of a chip hour."""

    @property
    def row(self) -> Accelerator:
        """The row of the hardware table."""
        return TABLE[self.type]


class AcceleratorSpec(Hardware):
    """The hardware of the run: identical slices of one topology and one accelerator type."""

    host_resources: HostResources = Field(default_factory=HostResources)
    """CPU and memory of each host's trainer container."""

    rules: ClassVar = (
        *_topology_rules(),
        Rule(
            "(self.provisioning == 'reservation') == has(self.reservation)",
            "set reservation together with provisioning: reservation, and only then",
            ".reservation",
        ),
        *_bought_rules(),
        *(_part_bought_rule(row) for row in _PARTS.values()),
        *(_part_fabric_rule(row) for row in _PART_FABRICS),
        Rule(
            "!has(self.reservationProject) || has(self.reservation)",
            "reservationProject needs a reservation; set reservation too, or leave it out",
            ".reservationProject",
        ),
        Rule(
            f"self.provisioning != 'flexStart' || !(self.type in {list(_SLICES_OF_ONE_HOST)}) || "
            f"self.type + ' ' + self.topology in {_FLEX_START_SLICES}",
            _FLEX_START,
            ".topology",
        ),
        Rule(
            f"self.network == 'standard' || self.type in {list(_FABRICS)}",
            f"network gpuDirect exists for {', '.join(_FABRICS)} only; leave it out for the others",
            ".network",
        ),
        Rule(
            f"!has(self.computeDomain) || self.type in {list(_COMPUTE_DOMAINS)}",
            f"computeDomain exists for {', '.join(_COMPUTE_DOMAINS)} only; leave it out for the others",
            ".computeDomain",
        ),
        Rule(
            f"!has(self.fabric) || !(self.type in {_NOT_GPUS})",
            "fabric exists for GPUs only; leave it out for TPUs and cpu",
            ".fabric",
        ),
        Rule(
            "!has(self.fabric) || self.network == 'standard' && self.provisioning == 'onDemand'",
            "fabric is for clusters other than GKE; network: gpuDirect and provisioning exist on GKE only, so leave "
            "out either fabric or them",
            ".fabric",
        ),
    )

    @property
    def network_bandwidth(self) -> int | None:
        """Bytes in a second of the network between slices or hosts, as in the hardware table. None: not known."""
        if self.fabric is None:
            return self.row.network_bandwidth
        known = built_in_fabrics().get(self.fabric)
        return known.fabric.gigabits_per_second * 10**9 // 8 or None if known is not None else None

    def resolve(self) -> Topology:
        """Slices, hosts and devices of this section.

        Raises:
            ValueError: The type has no such topology.
        """
        shape = self.row.shape(self.topology)
        if shape is None:
            raise ValueError(f"topology of {self.type} {self.row.topology_sentence}, not {self.topology}")
        return Topology(self.slices, shape.hosts, shape.devices_per_host)
