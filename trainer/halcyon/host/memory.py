"""The memory of the machine."""

import os
from pathlib import Path

from halcyon.host.errors import BadConfiguration
from halcyon_api.memory import memory_problem
from halcyon_api.spec.mesh import ResolvedMesh
from halcyon_api.training_run import TrainingRunSpec
from halcyon_api.validation import Problem

HOST_MEMORY = "pinned_host"
"""JAX's name of the host's memory that devices copy from and to."""


def machine_memory(root: Path = Path("/")) -> int | None:
    """Bytes of memory that a process may use: the machine's memory, or the container's limit if that is less. None:
    unknown.

    The memory that other programs use now is not subtracted, because they may end, and the operating system swaps.
    """
    limits = [
        _machine(root),
        *(_limit(root / path) for path in ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes")),
    ]
    known = [limit for limit in limits if limit is not None]
    return min(known, default=None)


def check_memory(
    spec: TrainingRunSpec, mesh: ResolvedMesh, available_bytes: int | None, *, devices: int, where: str
) -> None:
    """Reject a run that cannot fit into memory. If `available_bytes` is None, the size is unknown and no run is
    rejected.

    Raises:
        BadConfiguration: The run cannot fit; the message says how many bytes it needs, and how many there are.
    """
    if available_bytes is None:
        return
    problem = memory_problem(spec, mesh, available_bytes, devices=devices, where=where)
    if problem is not None:
        raise BadConfiguration(str(Problem(*problem)))


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
