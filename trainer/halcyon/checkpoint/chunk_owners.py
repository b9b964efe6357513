"""Assigns each replicated chunk to one of the processes that hold it, which then writes it or reads it.

Every process that holds a replicated region could write each chunk of it. The largest chunks are assigned first, each
to the holder with the fewest bytes so far; regions with a single holder count as its work from the start. The result is
a function of global shapes and shardings, so all processes compute the same result without messages.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax

from halcyon.checkpoint.layout import Region, normal

RegionKey = tuple[tuple[int, int], ...]
"""A hashable region: start and stop of each dimension."""


def key_of(region: Region) -> RegionKey:
    """The key of a region."""
    return tuple((part.start, part.stop) for part in region)


@dataclass(frozen=True)
class Held:
    """A region and the processes that hold it, in ascending order."""

    region: Region
    processes: tuple[int, ...]


def who_holds(sharding: jax.sharding.Sharding, shape: Sequence[int]) -> tuple[Held, ...]:
    """The regions of an array with the processes that hold them, in the order of the sharding's devices.

    The same on every process.
    """
    holders: dict[RegionKey, set[int]] = {}
    regions: dict[RegionKey, Region] = {}
    device: Any
    for device, index in sharding.devices_indices_map(tuple(shape)).items():
        region = normal(index, shape)
        key = key_of(region)
        regions[key] = region
        holders.setdefault(key, set()).add(device.process_index)
    return tuple(Held(regions[key], tuple(sorted(processes))) for key, processes in holders.items())


def assign(sizes: Sequence[int], holders: Sequence[tuple[int, ...]], loads: dict[int, int]) -> list[int]:
    """Distribute pieces of work among the processes that hold them.

    Args:
        sizes: Size of each piece in bytes.
        holders: The processes that hold each piece.
        loads: Bytes already assigned to each process; updated in place.

    Returns:
        The process of each piece.
    """
    heaps: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    chosen = [-1] * len(sizes)
    for number in sorted(range(len(sizes)), key=lambda number: (-sizes[number], number)):
        group = holders[number]
        if group not in heaps:
            heaps[group] = [(loads.get(process, 0), process) for process in group]
            heapq.heapify(heaps[group])
        heap = heaps[group]
        while heap[0][0] != loads.get(heap[0][1], 0):  # the process got work through another group
            heapq.heapreplace(heap, (loads[heap[0][1]], heap[0][1]))
        process = heap[0][1]
        chosen[number] = process
        loads[process] = loads.get(process, 0) + sizes[number]
        heapq.heapreplace(heap, (loads[process], process))
    return chosen
