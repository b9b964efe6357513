"""The facts of each NVIDIA GPU that XLA's compiler asks a driver for, so that it compiles without one.

XLA reads them from a text of its type ``GpuTargetConfigProto``. Sources: XLA's own descriptions of GPUs
(``openxla/xla: xla/backends/gpu/target_config/specs``, read 2026-11-26), and for the L4, which has none there, NVIDIA's
data sheet and the table of compute capabilities in the CUDA C++ programming guide.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from halcyon_api.hardware import TABLE

_KIB, _GB = 1024, 10**9
_CUDNN = (9, 10)
"""Version of cuDNN that the program is compiled for; the packages of the extra ``cuda`` have a later one."""


@dataclass(frozen=True)
class Gpu:
    """One GPU, with the attributes of JAX's device for it, so that a program can be traced for it
    (`halcyon.commands.programs.devices.described`).

    Attributes:
        device_kind: JAX's name of the kind of device.
        capability: Its compute capability.
        core_count: Streaming multiprocessors.
        memory_bytes: Its memory.
        l2_bytes: Level-2 cache.
        clock_ghz: Highest clock rate.
        memory_bandwidth: Bytes in a second; that of the hardware table.
        shared_bytes: Shared memory of a multiprocessor. A block gets 1 KiB less.
        threads: Threads of a multiprocessor at a time.
        float_units: Units for float32 of a multiprocessor.
        platform: JAX's name of its platform.
    """

    device_kind: str
    capability: tuple[int, int]
    core_count: int
    memory_bytes: int
    l2_bytes: int
    clock_ghz: float
    memory_bandwidth: int = 0
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
_H100 = Gpu("NVIDIA H100 80GB HBM3", memory_bytes=84942979072, **_HOPPER)
_A100: dict[str, Any] = {
    "capability": (8, 0), "core_count": 108, "l2_bytes": 41943040, "clock_ghz": 1.41, "shared_bytes": 164 * _KIB,
    "float_units": 64
}  # fmt: skip

_GPUS = {
    "l4": Gpu("NVIDIA L4", (8, 9), 58, 24 * _GB, 50331648, 2.04, shared_bytes=100 * _KIB, threads=1536),
    "a100": Gpu("NVIDIA A100-SXM4-40GB", memory_bytes=42331013120, **_A100),
    "a100-80gb": Gpu("NVIDIA A100-SXM4-80GB", memory_bytes=85100068864, **_A100),
    "h100": _H100,
    "h100-mega": _H100,
    "h200": Gpu("NVIDIA H200", memory_bytes=151397597184, **_HOPPER),
    "b200": Gpu("NVIDIA B200", (10, 0), 148, 191514411008, 132644864, 1.965),
    "gb200": Gpu("NVIDIA GB200", (10, 0), 152, 197897748480, 135528448, 2.062),
    "b300": Gpu("NVIDIA B300", (10, 3), 158, 297021865984, 135528448, 1.965),
    "gb300": Gpu("NVIDIA GB300", (10, 3), 152, 297021079552, 135528448, 2.07),
}
GPUS = {name: replace(gpu, memory_bandwidth=TABLE[name].memory_bandwidth or 0) for name, gpu in _GPUS.items()}
"""The GPUs by ``accelerator.type``. The type ``nvidia`` is any GPU, so it has no facts."""
