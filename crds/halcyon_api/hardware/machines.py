"""The memory and the CPUs that a trainer pod requests, by machine type.

A pod with accelerators is alone on its host, so it may use all memory that the node itself does not need. The request
is also the limit, so that a memory leak ends only the process that leaks. CPUs have no limit, because throttling would
delay steps: half of the host's outweigh the pods that run on every node, and leave room for them. The sizes of the
machines are those of Google's tables of machine types.
"""

from halcyon_api.hardware.kinds import GIB, Accelerator, Shape

CPU_POD_GIB = 4
"""Memory of a pod of type ``cpu``, whose machine is not known, in GiB."""
DEVICE_GIB = 16
"""Memory for each device of a pod whose machine is not known, in GiB."""
CPU_POD_CPUS = "100m"
"""CPUs of a pod of type ``cpu``: many of them share a small node."""
DEVICE_CPUS = 2
"""CPUs for each device of a pod whose machine is not known."""

_VISIBLE_SHARE = 0.97
"""Share of a machine's memory that the kernel leaves."""
_RESERVED_SHARES = ((4, 0.25), (4, 0.20), (8, 0.10), (112, 0.06))
"""Shares that GKE reserves, by GiB: a quarter of the first 4 GiB, a fifth of the next 4, and so on."""
_RESERVED_OF_THE_REST = 0.02
_OTHER_PODS_GIB = 4.0
"""For the pods that run on every node (device plugin, logs, metrics) and for the eviction threshold."""


def pod_memory_gib(row: Accelerator, shape: Shape, offloaded_bytes: int = 0) -> int:
    """The default memory request of a pod, in GiB.

    Args:
        row: The hardware.
        shape: One topology of it.
        offloaded_bytes: What each device of the run keeps in its host's memory. A machine of known size gives a pod all
            that it has; other pods request this in addition, twice: a save copies it.
    """
    if shape.machine_size is not None:
        return left_of_host_gib(shape.machine_size[0])
    further = -(-2 * offloaded_bytes * shape.devices_per_host // GIB)
    return (CPU_POD_GIB if row.family == "cpu" else DEVICE_GIB * shape.devices_per_host) + further


def pod_cpus(row: Accelerator, shape: Shape) -> str:
    """The default CPU request of a pod: half of its machine."""
    if shape.machine_size is not None:
        return str(shape.machine_size[1] // 2)
    return CPU_POD_CPUS if row.family == "cpu" else str(DEVICE_CPUS * shape.devices_per_host)


def left_of_host_gib(host_gib: int) -> int:
    """The memory of a machine that a pod can use, in GiB."""
    reserved, rest = 0.0, float(host_gib)
    for size, share in _RESERVED_SHARES:
        part = min(rest, size)
        reserved, rest = reserved + part * share, rest - part
    reserved += rest * _RESERVED_OF_THE_REST
    return max(1, int(host_gib * _VISIBLE_SHARE - reserved - _OTHER_PODS_GIB))
