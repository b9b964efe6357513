"""The kernels of attention for NVIDIA GPUs, and what each cannot compute: those of tokamax 0.0.17, and our own backward
passes, which compute visible tiles alone.

The facts are of its sources and of programs that were compiled for each compute capability, forward and backward
(tests/trainer/models/test_tokamax_attention.py lowers programs for four of them):

- Mosaic GPU: its backward pass exists for compute capability 9 and 10 only. Its widest head follows from the shared
  memory of one block.
- Triton: its backward pass has no soft cap, and reads the ranges of keys (documents, windows) from a table of one byte
  for each query and key. Reading that table does not compile for compute capability 12. Compute capability 8.6, 8.9 and
  12 have 99 KB of shared memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

GpuKernelName = Literal["mosaic_gpu", "triton"]

WRITTEN: dict[GpuKernelName, str] = {"mosaic_gpu": "Mosaic GPU", "triton": "Triton"}
"""The names of the kernels for readers."""
FEATURES = 64
"""The features of keys and values are padded to a multiple of this number."""


@dataclass(frozen=True)
class GpuKernel:
    """One kernel on GPUs of one compute capability.

    Attributes:
        name: Its name in tokamax.
        widest_head: Features of the widest head, padded.
        widest_value: Features of the widest value, padded.
        soft_cap: Whether it has a soft cap of the scores.
        ranges: Whether it keeps documents apart and has windows.
        keeps_table: Whether ranges need a table of one byte for each query and key, in the backward pass.
        gradients: Our own kernels of the backward pass; None: those of tokamax.
    """

    name: GpuKernelName
    widest_head: int
    widest_value: int
    soft_cap: bool
    ranges: bool = True
    keeps_table: bool = False
    gradients: Literal["hopper", "blackwell"] | None = None

    def lacks(self, head_size: int, value_size: int, *, soft_cap: bool, ranges: bool) -> str | None:
        """What the kernel lacks for a call, as the end of a sentence that begins with the kernel; None: nothing.

        Args:
            head_size: Features of keys.
            value_size: Features of values.
            soft_cap: Whether scores have a soft cap.
            ranges: Whether documents are kept apart, or there is a window.
        """
        if soft_cap and not self.soft_cap:
            return "has no soft cap of the scores"
        if ranges and not self.ranges:
            return "neither keeps documents apart nor has windows"
        for what, size, widest in (("heads", head_size, self.widest_head), ("values", value_size, self.widest_value)):
            if -(-size // FEATURES) * FEATURES > widest:
                return f"computes {what} of at most {widest} features, not {size}"
        return None


def gpu_kernels(compute_capability: tuple[int, int]) -> tuple[GpuKernel, ...]:
    """The kernels for GPUs of a compute capability, the fastest first; empty: tokamax has none."""
    major = compute_capability[0]
    mosaic, triton = "mosaic_gpu", "triton"
    if major < 8:
        return ()
    if major == 9:
        return (GpuKernel(mosaic, 256, 256, soft_cap=True, gradients="hopper"),)
    if major == 10:
        return (
            GpuKernel(mosaic, 192, 192, soft_cap=True, gradients="blackwell"),
            GpuKernel(triton, 256, 256, soft_cap=False, keeps_table=True),
        )
    if compute_capability in ((8, 0), (8, 7)):
        return (GpuKernel(triton, 256, 256, soft_cap=False, keeps_table=True),)
    return (GpuKernel(triton, 256, 128, soft_cap=False, ranges=major < 12, keeps_table=True),)


def gpu_kernel(
    compute_capability: tuple[int, int], head_size: int, value_size: int, *, soft_cap: bool, ranges: bool
) -> GpuKernel | str:
    """The fastest kernel for a call, or a clause that says what is lacking.

    Args:
        compute_capability: Of the GPU, such as (9, 0).
        head_size: See `GpuKernel.lacks`.
        value_size: See `GpuKernel.lacks`.
        soft_cap: See `GpuKernel.lacks`.
        ranges: See `GpuKernel.lacks`.
    """
    lacks: list[str] = []
    for kernel in gpu_kernels(compute_capability):
        found = kernel.lacks(head_size, value_size, soft_cap=soft_cap, ranges=ranges)
        if found is None:
            return kernel
        lacks.append(f"the {WRITTEN[kernel.name]} kernel {found}")
    words = ", and ".join(lacks) or "there is no kernel; one needs 8.0 or later"
    return f"on GPUs of compute capability {compute_capability[0]}.{compute_capability[1]}, {words}"
