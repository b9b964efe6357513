"""Estimates whether a run fits into memory, before anything is allocated.

The estimate is a lower bound, so no run is rejected that would fit. It counts the parameters, gradients and both moments of AdamW, divided
by the devices that shard them. Of the activations it counts one residual stream for each block and the batch itself, which recomputation
cannot avoid. Matrices inside a block, the loss and the compiler's copies need additional memory.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halcyon.errors import BadConfiguration
from halcyon_api.elastic import possible_microbatches
from halcyon_api.mesh import model_shape
from halcyon_api.spec.mesh import ResolvedMesh
from halcyon_api.spec.remat import Remat
from halcyon_api.training_run import TrainingRunSpec
from halcyon_api.validation import Problem

if TYPE_CHECKING:
    import jax

_WIDTHS = {"float32": 4, "bfloat16": 2}
_TRAINED_COPIES = 4
"""Parameters, gradients and two moments."""
_BATCH_BYTES_PER_TOKEN = 8
"""Token ids and targets, 32 bits each."""


@dataclass(frozen=True)
class MemoryNeed:
    """Lower bound of the memory that one device needs."""

    state_bytes: int
    batch_bytes: int

    @property
    def total_bytes(self) -> int:
        """State and batch."""
        return self.state_bytes + self.batch_bytes


def least_need(spec: TrainingRunSpec, mesh: ResolvedMesh) -> MemoryNeed:
    """Lower bound of the memory that a device of a run needs."""
    trainer, model = spec.trainer, model_shape(spec)
    copies = {"train": _TRAINED_COPIES, "evaluate": 1, "data": 0}[spec.task]
    if spec.adapter is not None:  # the adapter itself is small
        copies = min(copies, 1)
    state = copies * _WIDTHS[trainer.precision.parameters] * model.parameters // mesh.parameter_shards
    if spec.task == "data":
        return MemoryNeed(0, 0)
    residuals = _kept_residuals(model.blocks, spec.trainer.remat) if spec.task == "train" else 1
    sizes = [(trainer.batch_size, trainer.sequence_length)]
    sizes += [
        (entry.batch_size or trainer.batch_size, entry.sequence_length or trainer.sequence_length) for entry in trainer.batch_schedule
    ]
    tokens = max(batch * length for batch, length in sizes) // (mesh.data_parallelism * mesh.context * _most_microbatches(spec, mesh))
    width = model.width * _WIDTHS[trainer.precision.compute] // mesh.tensor
    return MemoryNeed(state, tokens * (residuals * width + _BATCH_BYTES_PER_TOKEN))


def _kept_residuals(blocks: int, remat: Remat) -> int:
    """Residual streams of whole sequences that a device keeps at least, for blocks that are computed in order."""
    return {"nested": math.isqrt(4 * blocks), "offload": 1}.get(remat, blocks)


def _most_microbatches(spec: TrainingRunSpec, mesh: ResolvedMesh) -> int:
    given = spec.trainer.microbatches
    return given if given != "auto" else (possible_microbatches(spec.trainer, mesh.data_parallelism) or (1,))[-1]


def memory_problem(spec: TrainingRunSpec, mesh: ResolvedMesh, available_bytes: int, *, devices: int, where: str) -> Problem | None:
    """Why a run cannot fit into memory; None if it may fit.

    Args:
        spec: The run's spec.
        mesh: Its mesh.
        available_bytes: Size of the memory that ``devices`` share.
        devices: Number of devices of the mesh that share the memory: 1 on an accelerator, all devices of the process on CPU.
        where: Name of the device or machine with the memory, for the error message.
    """
    need = least_need(spec, mesh)
    if need.total_bytes * devices <= available_bytes:
        return None
    amounts = f"{size(need.total_bytes * devices)} at least, and {where} has {size(available_bytes)}"
    if need.state_bytes >= need.batch_bytes:
        kind = spec.model.kind
        what = "parameters, gradients and optimizer state" if spec.task == "train" else "parameters"
        return Problem(f"spec.model.{kind}", f"{what} take {amounts}; choose a smaller model, or a topology with more memory")
    fix = "give a smaller batchSize, or more microbatches" if spec.task == "train" else "give a smaller batchSize"
    return Problem("spec.trainer.batchSize", f"a batch takes {amounts}; {fix}")


def check_memory(spec: TrainingRunSpec, mesh: ResolvedMesh, available_bytes: int | None, *, devices: int, where: str) -> None:
    """Reject a run that cannot fit into memory. If `available_bytes` is None, the size is unknown and no run is rejected.

    Raises:
        BadConfiguration: The run cannot fit; the message says how many bytes it needs, and how many there are.
    """
    problem = memory_problem(spec, mesh, available_bytes, devices=devices, where=where) if available_bytes is not None else None
    if problem is not None:
        raise BadConfiguration(str(problem))


def check_device_memory(spec: TrainingRunSpec, mesh: ResolvedMesh) -> None:
    """Reject a run that cannot fit on this process's accelerators, if JAX knows the size of their memory.

    Raises:
        BadConfiguration: See `check_memory`.
    """
    check_memory(spec, mesh, device_memory(), devices=1, where="each device")


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


def size(count: int) -> str:
    """Bytes with a unit, such as ``12.3 GB``."""
    for unit, factor in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"
