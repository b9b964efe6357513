"""Whether the devices of a run can do what its document asks: their memory, the host's memory, and products of 8 bits
and less.

A document names an accelerator, but on the user's own machine, and for GPUs that are not in the hardware table, only
the devices themselves tell. Hardware without such products would compute them in a wider type: slower than without
``spec.trainer.precision.products``, and less exact.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import jax

from halcyon.host.errors import BadConfiguration
from halcyon.host.memory import HOST_MEMORY
from halcyon_api.hardware import narrow_types
from halcyon_api.spec.trainer import PrecisionSpec, TrainerSpec


def hardware_name() -> str:
    """The devices of the run, such as ``8 x NVIDIA H100 80GB HBM3``."""
    kinds = Counter(device.device_kind for device in jax.devices())
    return ", ".join(f"{count} x {kind}" for kind, count in sorted(kinds.items()))[:256]


def check_narrow(precision: PrecisionSpec, devices: list[Any]) -> None:
    """Reject ``spec.trainer.precision.products`` that the devices do not have.

    Args:
        precision: ``spec.trainer.precision`` of the run.
        devices: The run's JAX devices.

    Raises:
        BadConfiguration: A device is not faster in this type.
    """
    kind = precision.products
    for device in devices:
        has = narrow_types(device.device_kind, str(getattr(device, "compute_capability", "")))
        if kind is not None and kind not in has:
            raise BadConfiguration(
                f"spec.trainer.precision.products: {kind} needs a device that is faster in it, and JAX sees "
                f"{device.device_kind}; leave products out, or take such a device (docs/hardware.md)"
            )


def has_host_memory(devices: Iterable[Any]) -> bool:
    """Whether a program on these devices can keep arrays in the host's memory."""
    kinds = [{memory.kind for memory in device.addressable_memories()} for device in devices]
    # JAX knows no memories of GPUs that are described to the compiler. Real ones have both.
    return all(not each or HOST_MEMORY in each for each in kinds)


def check_host_memory(trainer: TrainerSpec, devices: Iterable[Any]) -> None:
    """Reject ``spec.trainer.offload: optimizer`` on devices that cannot keep arrays in the host's memory.

    Raises:
        BadConfiguration: The devices cannot.
    """
    if trainer.offload == "optimizer" and not has_host_memory(devices):
        raise BadConfiguration(
            "spec.trainer.offload: JAX has no memory of the host for these devices; choose none, and narrower moments "
            "in precision.moments"
        )


def device_memory() -> int | None:
    """Bytes of memory of this process's smallest device, as JAX reports it. None: not known, as on the processor."""
    sizes = [(device.memory_stats() or {}).get("bytes_limit") for device in jax.local_devices()]
    return min((int(size) for size in sizes if size), default=None)
