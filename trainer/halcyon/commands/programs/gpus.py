"""NVIDIA GPUs of the hardware table, described to XLA's compiler, so that it compiles without one.

XLA reads what it would ask a driver for from a text of its type ``GpuTargetConfigProto``.
"""

from dataclasses import dataclass

from halcyon_api.hardware import TABLE
from halcyon_api.hardware.gpu import ARCHITECTURES
from halcyon_api.hardware.kinds import Accelerator, Chip

_CUDNN = (9, 10)
"""Version of cuDNN that the program is compiled for; the packages of the extra ``cuda`` have a later one."""


@dataclass(frozen=True, eq=False)
class Gpu:
    """One GPU, with the attributes of JAX's device for it, so that a program can be traced for it
    (`halcyon.commands.programs.devices.described`).

    Attributes:
        row: Its row of the hardware table.
        capability: Its compute capability.
        chip: Its facts for the compiler.
        platform: JAX's name of its platform.
    """

    row: Accelerator
    capability: tuple[int, int]
    chip: Chip
    platform: str = "gpu"

    @property
    def device_kind(self) -> str:
        """JAX's name of the kind of device."""
        return self.row.device_kinds[0]

    @property
    def core_count(self) -> int:
        """Streaming multiprocessors."""
        return self.chip.cores

    @property
    def compute_capability(self) -> str:
        """Its compute capability, as JAX writes it."""
        return f"{self.capability[0]}.{self.capability[1]}"

    @property
    def target_config(self) -> str:
        """The description that XLA reads."""
        (major, minor), chip, shared = self.capability, self.chip, ARCHITECTURES[self.capability]
        accelerated = "feature_extension: ACCELERATED_FEATURES" if major >= 9 else ""
        return f"""
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: {shared.threads}
  shared_memory_per_block: 49152 shared_memory_per_core: {shared.shared_kib * 1024}
  shared_memory_per_block_optin: {(shared.shared_kib - 1) * 1024}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  core_count: {chip.cores} fpus_per_core: {shared.float_units} clock_rate_ghz: {chip.clock_ghz}
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: {self.row.memory_bandwidth or 0} l2_cache_size: {chip.l2_bytes}
  device_memory_size: {chip.memory_bytes}
  cuda_compute_capability {{ major: {major} minor: {minor} {accelerated} }}
  dnn_version: "{_CUDNN[0]}.{_CUDNN[1]}.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: {_CUDNN[0]} minor: {_CUDNN[1]} }}
runtime_version {{ major: 12 minor: 9 patch: 0 }}
device_description_str: "{self.device_kind}"
"""


GPUS = {
    name: Gpu(row, row.compute_capability, row.chip)
    for name, row in TABLE.items()
    if row.compute_capability is not None and row.chip is not None
}
"""The GPUs by ``accelerator.type``. The type ``nvidia`` is any GPU, so it has no facts."""
