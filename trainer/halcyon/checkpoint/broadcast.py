"""Sends bytes that one process has read to all processes that need them: on the main thread, by an all-gather among
devices.

The store serves each file to one process of a group. That process sends it to the others over the network between
accelerators, which is many times as fast. Only bytes are sent, so no conversion can change a value. All rounds have the
same size, so one program is compiled for a restore of any size, and the memory of a round is bounded.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Partition = tuple[tuple[int, ...], ...]
"""All processes, in groups of equal size. The processes of a group read for each other."""

_ROUND_BYTES = 128 << 20
"""Most bytes that a process receives in a round."""
_SMALL_BYTES = 1 << 20
ALIGNMENT = 64
"""Each piece of a stream begins at a multiple of this, in bytes: a CPU device can then use the memory without a copy.
"""


def partition_of(holders: Sequence[tuple[int, ...]], process_count: int) -> Partition | None:
    """Groups of processes that hold the same regions of an array.

    Args:
        holders: The processes that hold each region.
        process_count: Number of processes.

    Returns:
        None if each group has one process, if a process is in two groups or in none, or if the groups have different
        sizes.
    """
    groups = sorted(set(holders))
    members = [process for group in groups for process in group]
    if (
        sorted(members) != list(range(process_count))
        or len({len(group) for group in groups}) != 1
        or len(groups[0]) == 1
    ):
        return None
    return tuple(groups)


def stream_bytes(sizes: Sequence[int]) -> int:
    """Length in bytes of a stream of pieces of these sizes, with padding."""
    return sum(-(-size // ALIGNMENT) * ALIGNMENT for size in sizes)


def broadcast(
    partition: Partition, mine: Sequence[np.ndarray], lengths: Sequence[int], longest: int
) -> list[np.ndarray]:
    """Exchange the pieces of the processes within each group. A collective of all processes.

    Args:
        partition: The groups.
        mine: This process's pieces, as bytes.
        lengths: Length of the stream of each process of this process's group, in bytes.
        longest: Length of the longest stream of any process, in bytes; the same on every process.

    Returns:
        The stream of each process of the group.
    """
    members = len(lengths)
    local = len(jax.local_devices())
    wanted = _SMALL_BYTES if longest <= _SMALL_BYTES else _ROUND_BYTES // members
    part = max(ALIGNMENT, wanted // local // ALIGNMENT * ALIGNMENT)
    size = part * local
    gather, sharding = _all_gather(partition, part)
    out = np.zeros(-(-longest // size) * size, np.uint8)
    at = 0
    for piece in mine:
        out[at : at + piece.nbytes] = piece
        at += stream_bytes([piece.nbytes])
    streams = [np.empty(length, np.uint8) for length in lengths]
    devices = _devices()[jax.process_index()]
    for start in range(0, len(out), size):
        rows = [
            out[start + number * part : start + (number + 1) * part].reshape(1, 1, 1, part) for number in range(local)
        ]
        shards = [jax.device_put(row, device) for row, device in zip(rows, devices, strict=True)]
        shape = (len(partition), members, local, part)
        gathered = gather(jax.make_array_from_single_device_arrays(shape, sharding, shards))
        for shard in gathered.addressable_shards:
            first = start + (shard.index[2].start or 0) * part
            data = np.asarray(shard.data)
            for stream, row in zip(streams, data[0, :, 0], strict=True):
                stream[first : first + part] = row[: max(0, len(stream) - first)]
    return streams


@cache
def _devices() -> list[list[Any]]:
    """The devices by process."""
    devices: list[list[Any]] = [[] for _ in range(jax.process_count())]
    for device in jax.devices():
        devices[device.process_index].append(device)
    return devices


@cache
def devices_are_even() -> bool:
    """Whether all processes have the same number of devices."""
    return len({len(devices) for devices in _devices()}) == 1


@cache
def _all_gather(partition: Partition, part: int) -> tuple[Any, NamedSharding]:
    grid = np.array([[_devices()[process] for process in group] for group in partition])
    mesh = Mesh(grid, ("group", "member", "device"))
    before, after = PartitionSpec("group", "member", "device", None), PartitionSpec("group", None, "device", None)
    return jax.jit(lambda rows: rows, out_shardings=NamedSharding(mesh, after)), NamedSharding(mesh, before)
