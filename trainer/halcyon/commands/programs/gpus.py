"""The facts of each NVIDIA GPU that XLA's compiler asks a driver for, so that it compiles without one.

XLA reads them from a text of its type ``GpuTargetConfigProto``. Sources: XLA's own descriptions of GPUs
(``openxla/xla: xla/backends/gpu/target_config/specs``, read 2026-11-26), and for the L4, which has none there, NVIDIA's
data sheet and the table of compute capabilities in the CUDA C++ programming guide.

Beside them stand the nominal speeds of a device, for the share of collectives that computation covers. The peak rate is
in the hardware table (`halcyon_api.hardware`). The others are from Google's pages on the system architecture of TPUs
("HBM bandwidth per chip"; "bidirectional inter-chip interconnect bandwidth per chip", of which a link has an equal part
in each direction; "data center network bandwidth" of a chip, or of a pod by its chips; Jouppi et al. 2023 for v4), on
the network bandwidth of GPU machines, and from NVIDIA's data sheets (NVLink, each direction; PCIe 4 for the L4). Read
2026-11-26 and, of networks, 2026-11-27.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from halcyon.step.hlo.work import Rates
from halcyon_api.spec.accelerator import AcceleratorSpec

_KIB, _GB = 1024, 10**9
_CUDNN = (9, 10)
"""Version of cuDNN that the program is compiled for; the packages of the extra ``cuda`` have a later one."""
_TPU_MEMORY = {"v4": 1228 * _GB, "v5e": 819 * _GB, "v5p": 2765 * _GB, "v6e": 1640 * _GB, "v7x": 7380 * _GB}
"""Bytes in a second of a chip."""
_TPU_LINK = {"v4": 50 * _GB, "v5e": 50 * _GB, "v5p": 100 * _GB, "v6e": 100 * _GB, "v7x": 100 * _GB}
"""Bytes in a second of one link of a chip, in one direction."""
_NVLINK = {
    "l4": 32 * _GB, "a100": 300 * _GB, "a100-80gb": 300 * _GB, "h100": 450 * _GB, "h100-mega": 450 * _GB,
    "h200": 450 * _GB,
    "b200": 900 * _GB, "gb200": 900 * _GB, "b300": 900 * _GB, "gb300": 900 * _GB,
}  # fmt: skip
_GBIT = _GB // 8
_TPU_NETWORK = {"v5e": 25 * _GBIT, "v5p": 50 * _GBIT, "v6e": 100 * _GBIT}
"""Bytes in a second of a chip to other slices. Google's pages state none for v4 and v7x."""
_HOST_NETWORK = {
    "l4": 100 * _GBIT, "a100": 100 * _GBIT, "a100-80gb": 100 * _GBIT, "h100": 800 * _GBIT, "h100-mega": 1600 * _GBIT,
    "h200": 3200 * _GBIT, "b200": 3200 * _GBIT, "gb200": 1600 * _GBIT, "gb300": 3200 * _GBIT,
}  # fmt: skip
"""Bytes in a second of the largest host to other hosts, of the interfaces for GPUs alone where a machine has some."""


@dataclass(frozen=True)
class Gpu:
    """One GPU, with the attributes of JAX's device for it, so that a program can be traced for it
    (`halcyon.commands.programs.devices.described`).

    Attributes:
        device_kind: JAX's name of the kind of device.
        capability: Its compute capability.
        core_count: Streaming multiprocessors.
        memory_bytes: Its memory.
        memory_bandwidth: Bytes in a second.
        l2_bytes: Level-2 cache.
        clock_ghz: Highest clock rate.
        shared_bytes: Shared memory of a multiprocessor. A block gets 1 KiB less.
        threads: Threads of a multiprocessor at a time.
        float_units: Units for float32 of a multiprocessor.
        platform: JAX's name of its platform.
    """

    device_kind: str
    capability: tuple[int, int]
    core_count: int
    memory_bytes: int
    memory_bandwidth: int
    l2_bytes: int
    clock_ghz: float
    shared_bytes: int = 228 * _KIB
    threads: int = 2048
    float_units: int = 128
    platform: str = "gpu"

    @property
    def compute_capability(self) -> str:
        """Its compute capability, as JAX writes it."""
        return f"{self.capability[0]}.{self.capability[1]}"

    @property
    def target_config(self) -> str:
        """The description that XLA reads."""
        major, minor = self.capability
        accelerated = "feature_extension: ACCELERATED_FEATURES" if major >= 9 else ""
        return f"""
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: {self.threads}
  shared_memory_per_block: 49152 shared_memory_per_core: {self.shared_bytes}
  shared_memory_per_block_optin: {self.shared_bytes - _KIB}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  core_count: {self.core_count} fpus_per_core: {self.float_units} clock_rate_ghz: {self.clock_ghz}
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: {self.memory_bandwidth} l2_cache_size: {self.l2_bytes} device_memory_size: {self.memory_bytes}
  cuda_compute_capability {{ major: {major} minor: {minor} {accelerated} }}
  dnn_version: "{_CUDNN[0]}.{_CUDNN[1]}.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: {_CUDNN[0]} minor: {_CUDNN[1]} }}
runtime_version {{ major: 12 minor: 9 patch: 0 }}
device_description_str: "{self.device_kind}"
"""


_HOPPER: dict[str, Any] = {"capability": (9, 0), "core_count": 132, "l2_bytes": 52428800, "clock_ghz": 1.98}
_H100 = Gpu("NVIDIA H100 80GB HBM3", memory_bytes=84942979072, memory_bandwidth=3352320000000, **_HOPPER)
_A100: dict[str, Any] = {
    "capability": (8, 0), "core_count": 108, "l2_bytes": 41943040, "clock_ghz": 1.41, "shared_bytes": 164 * _KIB,
    "float_units": 64
}  # fmt: skip

GPUS: dict[str, Gpu] = {
    "l4": Gpu("NVIDIA L4", (8, 9), 58, 24 * _GB, 300 * _GB, 50331648, 2.04, shared_bytes=100 * _KIB, threads=1536),
    "a100": Gpu("NVIDIA A100-SXM4-40GB", memory_bytes=42331013120, memory_bandwidth=1555200000000, **_A100),
    "a100-80gb": Gpu("NVIDIA A100-SXM4-80GB", memory_bytes=85100068864, memory_bandwidth=2039040000000, **_A100),
    "h100": _H100,
    "h100-mega": _H100,
    "h200": Gpu("NVIDIA H200", memory_bytes=151397597184, memory_bandwidth=4800000000000, **_HOPPER),
    "b200": Gpu("NVIDIA B200", (10, 0), 148, 191514411008, 7672320000000, 132644864, 1.965),
    "gb200": Gpu("NVIDIA GB200", (10, 0), 152, 197897748480, 7928064000000, 135528448, 2.062),
    "b300": Gpu("NVIDIA B300", (10, 3), 158, 297021865984, 7936000000000, 135528448, 1.965),
    "gb300": Gpu("NVIDIA GB300", (10, 3), 152, 297021079552, 7928064000000, 135528448, 2.07),
}
"""The GPUs by ``accelerator.type``. The type ``nvidia`` is any GPU, so it has no facts."""


def rates_of(spec: AcceleratorSpec, slices: int) -> Rates | None:
    """Speed of a device of a document. None: not known.

    Args:
        spec: ``spec.accelerator``.
        slices: Number of slices.
    """
    row = spec.row
    peak = row.peak_flops_per_second
    if peak is None:
        return None
    sides = [int(side) for side in spec.topology.split("x")]
    if row.family == "tpu":
        shared, network = row.devices_per_chip, _TPU_NETWORK.get(row.name)
        if slices > 1 and network is None:
            return None
        links = max(1, edge_links(sides, largest=16 if len(sides) == 2 else 4)) * _TPU_LINK[row.name]
        ideal = Rates(peak, _TPU_MEMORY[row.name] / shared, links / shared)
        island = math.prod(sides) * shared
        return ideal if slices == 1 else replace(ideal, network=(network or 0) / shared, island=island)
    if row.name not in GPUS:
        return None
    ideal = Rates(peak, GPUS[row.name].memory_bandwidth, _NVLINK[row.name])
    if slices * sides[0] == 1:
        return ideal
    if (network := _HOST_NETWORK.get(row.name)) is None:
        return None
    return replace(ideal, network=network / row.largest_host, island=sides[1])


def edge_links(sides: list[int], *, largest: int) -> int:
    """Links of a chip at the edge of a slice: two along a side whose ends are connected, one along a shorter side.

    Args:
        sides: The topology.
        largest: Length from which the ends of a side are connected.
    """
    return sum(0 if side == 1 else 2 if side >= largest else 1 for side in sides)
