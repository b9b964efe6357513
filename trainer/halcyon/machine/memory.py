"""The memory of devices and machines, and checks that a run fits into it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halcyon.errors import BadConfiguration
from halcyon_api.counting import size
from halcyon_api.memory import memory_problem
from halcyon_api.spec.mesh import ResolvedMesh
from halcyon_api.spec.trainer import TrainerSpec
from halcyon_api.training_run import TrainingRunSpec
from halcyon_api.validation import Problem

if TYPE_CHECKING:
    import jax


def check_memory(spec: TrainingRunSpec, mesh: ResolvedMesh, available_bytes: int | None, *, devices: int, where: str) -> None:
    """Reject a run that cannot fit into memory. If `available_bytes` is None, the size is unknown and no run is rejected.

    Raises:
        BadConfiguration: The run cannot fit; the message says how many bytes it needs, and how many there are.
    """
    problem = memory_problem(spec, mesh, available_bytes, devices=devices, where=where) if available_bytes is not None else None
    if problem is not None:
        raise BadConfiguration(str(Problem(*problem)))


def check_device_memory(spec: TrainingRunSpec, mesh: ResolvedMesh) -> None:
    """Reject a run that cannot fit on this process's accelerators, if JAX knows the size of their memory.

    Raises:
        BadConfiguration: See `check_memory`.
    """
    check_memory(spec, mesh, device_memory(), devices=1, where="each device")


HOST_MEMORY = "pinned_host"
"""JAX's name of the host's memory that devices copy from and to."""


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
            "spec.trainer.offload: JAX has no memory of the host for these devices; choose none, and narrower moments in precision.moments"
        )


def device_memory() -> int | None:
    """Bytes of memory of this process's smallest device, as JAX reports it. None: not known, as on the processor."""
    import jax

    sizes = [(device.memory_stats() or {}).get("bytes_limit") for device in jax.local_devices()]
    return min((int(size) for size in sizes if size), default=None)


def check_step_memory(compiled: jax.stages.Compiled, available_bytes: int | None, *, devices: int) -> None:
    """Reject a compiled step that cannot run in the memory that its devices share, if the compiler reports the size that it needs.

    Args:
        compiled: The step.
        available_bytes: Size of the memory; None: unknown.
        devices: Number of devices that share the memory.

    Raises:
        BadConfiguration: The step cannot run; the message says how many bytes it needs, and how many there are.
    """
    found: Any = compiled.memory_analysis()
    sizes = [getattr(found, f"{kind}_size_in_bytes", 0) for kind in ("argument", "temp")]
    needed = sum(sizes) * devices
    if available_bytes is not None and needed > available_bytes:
        raise BadConfiguration(
            f"spec.trainer.batchSize: a step takes {size(needed)}, and this machine has {size(available_bytes)}; give a smaller "
            "batchSize, a shorter sequenceLength, or more microbatches"
        )


def machine_memory(root: Path = Path("/")) -> int | None:
    """Bytes of memory that a process may use: the machine's memory, or the container's limit if that is less. None: unknown.

    The memory that other programs use now is not subtracted, because they may end, and the operating system swaps.
    """
    limits = [_machine(root), *(_limit(root / path) for path in ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"))]
    known = [limit for limit in limits if limit is not None]
    return min(known, default=None)


def _machine(root: Path) -> int | None:
    try:
        line = next(line for line in (root / "proc/meminfo").read_text().splitlines() if line.startswith("MemTotal:"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _limit(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
