"""The choice of a kernel of attention for NVIDIA GPUs.

`halcyon_api.hardware.gpu.ARCHITECTURES` has the kernels, and what each cannot compute.
"""

from halcyon_api.hardware.gpu import architecture_of
from halcyon_api.hardware.kinds import GpuKernel

WRITTEN = {"mosaic_gpu": "Mosaic GPU", "triton": "Triton"}
"""The names of the kernels for readers."""
FEATURES = 64
"""The features of keys and values are padded to a multiple of this number."""


def gpu_kernels(compute_capability: tuple[int, int]) -> tuple[GpuKernel, ...]:
    """The kernels for GPUs of a compute capability, the fastest first; empty: tokamax has none."""
    known = architecture_of(compute_capability)
    return known.attention if known else ()


def gpu_kernel(
    compute_capability: tuple[int, int], head_size: int, value_size: int, *, soft_cap: bool, ranges: bool
) -> GpuKernel | str:
    """The fastest kernel for a call, or a clause that says what is lacking.

    Args:
        compute_capability: Of the GPU, such as (9, 0).
        head_size: See `_lacks`.
        value_size: See `_lacks`.
        soft_cap: See `_lacks`.
        ranges: See `_lacks`.
    """
    missing: list[str] = []
    for kernel in gpu_kernels(compute_capability):
        found = _lacks(kernel, head_size, value_size, soft_cap=soft_cap, ranges=ranges)
        if found is None:
            return kernel
        missing.append(f"the {WRITTEN[kernel.name]} kernel {found}")
    words = ", and ".join(missing) or "there is no kernel; one needs 8.0 or later"
    return f"on GPUs of compute capability {compute_capability[0]}.{compute_capability[1]}, {words}"


def _lacks(kernel: GpuKernel, head_size: int, value_size: int, *, soft_cap: bool, ranges: bool) -> str | None:
    """What the kernel lacks for a call, as the end of a sentence that begins with the kernel; None: nothing.

    Args:
        kernel: The kernel.
        head_size: Features of keys.
        value_size: Features of values.
        soft_cap: Whether scores have a soft cap.
        ranges: Whether documents are kept apart, or there is a window.
    """
    if soft_cap and not kernel.soft_cap:
        return "has no soft cap of the scores"
    if ranges and not kernel.ranges:
        return "neither keeps documents apart nor has windows"
    for what, size, widest in (("heads", head_size, kernel.widest_head), ("values", value_size, kernel.widest_value)):
        if -(-size // FEATURES) * FEATURES > widest:
            return f"computes {what} of at most {widest} features, not {size}"
    return None
