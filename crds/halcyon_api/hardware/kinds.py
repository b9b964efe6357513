"""The types of the hardware table."""

import math
from dataclasses import dataclass, field
from typing import Literal

from pydantic import ConfigDict

Family = Literal["cpu", "tpu", "gpu"]
NarrowType = Literal["float8", "int8", "mxfp8", "nvfp4"]
"""Types with 8 bits or less of the factors of a matrix product."""
Provisioning = Literal["onDemand", "spot", "reservation", "flexStart", "queued"]

GIB = 2**30
CHIPS_OF_A_CUBE = 64
"""Large slices of the generations with a three-dimensional torus are made of cubes of 4x4x4 chips."""


@dataclass(frozen=True)
class Shape:
    """One topology of one accelerator type: identical hosts."""

    hosts: int
    chips_per_host: int
    devices_per_host: int
    machine_type: str = ""
    """Machine type on GKE; empty: any."""
    machine_size: tuple[int, int] | None = None
    """Memory of the machine in GiB, and its virtual CPUs; None: not known."""


@dataclass(frozen=True)
class HostPath:
    """A directory of the node that is mounted into a container."""

    name: str
    path: str
    mount_path: str
    read_only: bool = True


@dataclass(frozen=True)
class Sidecar:
    """A container that moves the trainer's data.

    It runs as root, with these capabilities only, and is not privileged.
    """

    name: str
    image: str
    command: tuple[str, ...]
    capabilities: tuple[str, ...]
    devices: tuple[str, ...]
    """Device files of the node, added by GKE's device injector."""
    host_paths: tuple[HostPath, ...]


@dataclass(frozen=True)
class Fabric:
    """The settings with which a pod uses the fast network of its machine."""

    name: str
    interfaces: tuple[tuple[str, str], ...]
    """Network interfaces of the pod with their GKE networks, in addition to ``eth0`` in ``default``."""
    environment: dict[str, str]
    host_paths: tuple[HostPath, ...]
    source: str
    socket_directory: str = ""
    """Directory that trainer and sidecar share for their sockets; empty: none."""
    sidecar: Sidecar | None = None
    plugin: str = ""
    """Google's installer of the matching NCCL plugin on the nodes; empty: the plugin of the nodes."""


@dataclass(frozen=True)
class Chip:
    """What XLA must know of an NVIDIA GPU to compile for it on a machine without one, beside its `Architecture`.

    The numbers are those of XLA's own descriptions of GPUs.
    """

    cores: int
    """Streaming multiprocessors."""
    memory_bytes: int
    """Memory, less what the driver keeps for itself."""
    l2_bytes: int
    """Level-2 cache."""
    clock_ghz: float
    """Highest clock rate."""


@dataclass(frozen=True)
class GpuKernel:
    """One kernel of attention on GPUs of one compute capability; `halcyon_api.hardware.gpu_attention` chooses one.

    Attributes:
        name: Its name in tokamax.
        widest_head: Features of the widest head, padded.
        widest_value: Features of the widest value, padded.
        soft_cap: Whether it has a soft cap of the scores.
        ranges: Whether it keeps documents apart and has windows.
        keeps_table: Whether ranges need a table of one byte for each query and key, in the backward pass.
        gradients: Our own kernels of the backward pass; None: those of tokamax.
    """

    name: Literal["mosaic_gpu", "triton"]
    widest_head: int
    widest_value: int
    soft_cap: bool = False
    ranges: bool = True
    keeps_table: bool = False
    gradients: Literal["hopper", "blackwell"] | None = None


@dataclass(frozen=True)
class Tile:
    """One tile of a product of groups: its sides, and how the programs that compute it are started."""

    rows: int
    columns: int
    depth: int
    """Terms of the sum that are loaded at a time, for factors of 2 bytes."""
    warps: int
    stages: int
    """Loads in flight."""
    band: int = 8
    """Rows of tiles whose programs run one after the other, so that they share what they load."""


@dataclass(frozen=True)
class Architecture:
    """What all NVIDIA GPUs of a compute capability have in common."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    attention: tuple[GpuKernel, ...]
    """The kernels of attention, the fastest first."""
    narrow: tuple[NarrowType, ...]
    """Types with 8 bits or less in which they multiply matrices faster than in bfloat16."""
    tile: Tile
    """For products of rows with the matrix of their group (`halcyon.models.parts.grouped_kernel`)."""
    outer: Tile
    """For sums of outer products of the rows of a group."""
    outer_of_few: Tile | None = None
    """The same for groups of few rows; None: as for all."""
    shared_kib: int = 228
    """Shared memory of a multiprocessor. A block gets 1 KiB less."""
    threads: int = 2048
    """Threads of a multiprocessor at a time."""
    float_units: int = 128
    """Units for float32 of a multiprocessor."""


@dataclass(frozen=True)
class Accelerator:
    """One row of the hardware table."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str
    """Value of ``accelerator.type``."""
    title: str
    family: Family
    source: str
    """Source of the row's facts."""
    as_of: str
    """Date on which the source was read."""
    provisioning: tuple[Provisioning, ...] = ("onDemand",)
    node_labels: dict[str, str] = field(default_factory=dict[str, str])
    tolerated_taints: tuple[tuple[str, str], ...] = ()
    """Keys and values of taints with effect NoSchedule; an empty value means any value."""
    resource: str = ""
    """Name of the extended resource of one chip; empty: none."""
    machine: str = ""
    """Machine type on GKE, with ``{chips}`` for the chips of a host, or ``{cpus}`` for its virtual CPUs."""
    machine_sizes: dict[int, tuple[int, int]] = field(default_factory=dict[int, tuple[int, int]])
    """Memory in GiB and virtual CPUs of the machine, by chips of a host."""
    memory_bytes: int | None = None
    """Memory of one JAX device; None: not known."""
    peak_flops_per_second: float | None = None
    """Dense bfloat16 operations of one JAX device; None: not known."""
    memory_bandwidth: int | None = None
    """Bytes in a second of a chip's memory (see `halcyon.step.speeds`); None: not known."""
    link_bandwidth: int = 0
    """TPU: of one ICI link of a chip, in one direction. GPU: of its NVLink, or of its PCIe, in each direction."""
    network_bandwidth: int | None = None
    """Of the network between slices or hosts. TPU: of a chip. GPU: of a host. None: not known."""
    list_price: float | None = None
    """US dollars of a chip-hour with its part of the machine (`halcyon_api.hardware.PRICES`); None: not known."""
    narrow: tuple[NarrowType, ...] = ()
    """Types with 8 bits or less in which it multiplies matrices faster than in bfloat16."""
    compute_capability: tuple[int, int] | None = None
    """NVIDIA GPU: version of its instructions; None: not known."""
    chip: Chip | None = None
    """NVIDIA GPU: what its compiler asks a driver for; None: not known."""
    devices_per_chip: int = 1
    """JAX devices of one chip, the unit of the extended resource."""
    topologies: tuple[str, ...] = ()
    """TPU: the topologies that are listed by name."""
    max_cubes: int = 0
    """TPU: maximum cubes of a topology AxBxC whose sides are multiples of 4; 0: no such topologies."""
    rising_sides: bool = False
    """TPU: A <= B <= C in AxBxC."""
    process_addresses: bool = False
    """TPU: libtpu reads ``TPU_PROCESS_ADDRESSES`` in place of ``TPU_WORKER_HOSTNAMES``."""
    devices_per_host: tuple[int, ...] = ()
    """cpu and GPU: allowed numbers of devices per host, for a topology HOSTSxDEVICES; empty: see
    `max_devices_per_host`.
    """
    part_hosts_provisioning: tuple[Provisioning, ...] = ()
    """GPU: provisioning of hosts with fewer devices than the largest host; empty: as for the largest host."""
    max_devices_per_host: int = 0
    max_hosts: int = 0
    """cpu and GPU: maximum hosts of a slice."""
    pool_is_slice: bool = False
    """The hosts of a slice are one node pool, and no other slice of the run may be in it."""
    fabric: Fabric | None = None
    compute_domain: bool = False
    """NVLink between hosts needs a claim on a ComputeDomain."""
    environment: dict[str, str] = field(default_factory=dict[str, str])
    memory_backed_shm: bool = False
    """Devices of a host communicate through /dev/shm, for which a container's default of 64 MiB is too small."""
    device_kinds: tuple[str, ...] = ()
    """JAX's names of its devices."""
    aliases: tuple[str, ...] = ()
    """Other common names, for the suggestion when a name is unknown."""
    tried: str = ""
    """What of Halcyon has run on it; empty: nothing."""

    def shape(self, topology: str) -> Shape | None:
        """The hosts of a topology; None if this type has no such topology."""
        try:
            sides = tuple(int(side) for side in topology.split("x"))
        except ValueError:
            return None
        if self.family == "tpu":
            return self._slice(topology, sides)
        if len(sides) != 2 or not 1 <= sides[0] <= self.max_hosts or not self._has(sides[1]):
            return None
        return Shape(sides[0], sides[1], sides[1], self.machine_of(sides[1]), self.machine_sizes.get(sides[1]))

    def machine_of(self, chips: int) -> str:
        """Machine type on GKE of a host with this number of chips; empty: any."""
        return self.machine.format(chips=chips, cpus=self.machine_sizes.get(chips, (0, 0))[1])

    @property
    def extra(self) -> str:
        """The extra of the package with JAX for it, which is also the ACCELERATOR of its image."""
        return self.family if self.family != "gpu" else "rocm" if self.resource == "amd.com/gpu" else "cuda"

    @property
    def largest_host(self) -> int:
        """JAX devices of the largest host."""
        if self.family == "tpu":
            return 4 * self.devices_per_chip
        return max(self.devices_per_host, default=self.max_devices_per_host)

    @property
    def topology_sentence(self) -> str:
        """Allowed values of ``accelerator.topology``, as the end of a sentence that begins with "topology of NAME "."""
        if self.family == "tpu":
            cubes = (
                f" or AxBxC with sides that are multiples of 4{', do not fall' if self.rising_sides else ''} and make "
                "at most "
            )
            return f"must be one of {', '.join(self.topologies)}" + (
                f"{cubes}{self.max_cubes} cubes of 4x4x4" if self.max_cubes else ""
            )
        if self.devices_per_host:
            counts = " or ".join(map(str, self.devices_per_host))
            return f"is HOSTSxDEVICES with at most {self.max_hosts} hosts and {counts} devices a host"
        return f"is HOSTSxDEVICES with at most {self.max_hosts} hosts and {self.max_devices_per_host} devices a host"

    def _slice(self, topology: str, sides: tuple[int, ...]) -> Shape | None:
        if topology not in self.topologies and not self._made_of_cubes(sides):
            return None
        chips = math.prod(sides)
        chips_per_host = 1 if chips == 1 else 4
        return Shape(
            chips // chips_per_host,
            chips_per_host,
            chips_per_host * self.devices_per_chip,
            self.machine_of(chips_per_host),
            self.machine_sizes.get(chips_per_host),
        )

    def _made_of_cubes(self, sides: tuple[int, ...]) -> bool:
        return (
            len(sides) == 3
            and all(side >= 4 and side % 4 == 0 for side in sides)
            and math.prod(sides) <= self.max_cubes * CHIPS_OF_A_CUBE
            and (not self.rising_sides or sides == tuple(sorted(sides)))
        )

    def _has(self, devices: int) -> bool:
        return devices in self.devices_per_host if self.devices_per_host else 1 <= devices <= self.max_devices_per_host
