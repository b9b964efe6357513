"""The nominal speeds of devices: for the time of a step, and for the share of collectives that computation covers.

The peak rate is in the hardware table (`halcyon_api.hardware`). The others are from Google's pages on the system
architecture of TPUs ("HBM bandwidth per chip"; "bidirectional inter-chip interconnect bandwidth per chip", of which a
link has an equal part in each direction; "data center network bandwidth" of a chip, or of a pod by its chips; Jouppi et
al. 2023 for v4), on the network bandwidth of GPU machines, and from NVIDIA's data sheets (NVLink, each direction; PCIe
4 for the L4). The memory of GPUs is from XLA's own descriptions of them. Read 2026-11-26 and, of networks, 2026-11-27.
"""

from __future__ import annotations

import math
from dataclasses import replace

from halcyon.step.hlo.work import Rates
from halcyon_api.spec.accelerator import AcceleratorSpec

_MB, _GB = 10**6, 10**9
_TPU_MEMORY = {"v4": 1228 * _GB, "v5e": 819 * _GB, "v5p": 2765 * _GB, "v6e": 1640 * _GB, "v7x": 7380 * _GB}
"""Bytes in a second of a chip."""
_TPU_LINK = {"v4": 50 * _GB, "v5e": 50 * _GB, "v5p": 100 * _GB, "v6e": 100 * _GB, "v7x": 100 * _GB}
"""Bytes in a second of one link of a chip, in one direction."""
GPU_MEMORY = {
    "l4": 300 * _GB,
    "a100": 1_555_200 * _MB,
    "a100-80gb": 2_039_040 * _MB,
    "h100": 3_352_320 * _MB,
    "h100-mega": 3_352_320 * _MB,
    "h200": 4_800 * _GB,
    "b200": 7_672_320 * _MB,
    "gb200": 7_928_064 * _MB,
    "b300": 7_936 * _GB,
    "gb300": 7_928_064 * _MB,
}
"""Bytes in a second of a GPU's memory."""
_NVLINK = {
    "l4": 32 * _GB, "a100": 300 * _GB, "a100-80gb": 300 * _GB, "h100": 450 * _GB, "h100-mega": 450 * _GB,
    "h200": 450 * _GB,
    "b200": 900 * _GB, "gb200": 900 * _GB, "b300": 900 * _GB, "gb300": 900 * _GB,
}  # fmt: skip
_GBIT = _GB // 8
_TPU_NETWORK = {"v5e": 25 * _GBIT, "v5p": 50 * _GBIT, "v6e": 100 * _GBIT}
"""Bytes in a second of a chip to other slices. Google's pages state none for v4 and v7x."""
_HOST_NETWORK = {
    "l4": 100 * _GBIT, "a100": 100 * _GBIT, "a100-80gb": 100 * _GBIT, "h100": 800 * _GBIT, "h100-mega": 1600 * _GBIT,
    "h200": 3200 * _GBIT, "b200": 3200 * _GBIT, "gb200": 1600 * _GBIT, "gb300": 3200 * _GBIT,
}  # fmt: skip
"""Bytes in a second of the largest host to other hosts, of the interfaces for GPUs alone where a machine has some."""


def rates_of(spec: AcceleratorSpec, slices: int) -> Rates | None:
    """Speed of a device of a document. None: not known.

    Args:
        spec: ``spec.accelerator``.
        slices: Number of slices.
    """
    row = spec.row
    peak = row.peak_flops_per_second
    if peak is None:
        return None
    sides = [int(side) for side in spec.topology.split("x")]
    if row.family == "tpu":
        shared, network = row.devices_per_chip, _TPU_NETWORK.get(row.name)
        if slices > 1 and network is None:
            return None
        links = max(1, edge_links(sides, largest=16 if len(sides) == 2 else 4)) * _TPU_LINK[row.name]
        ideal = Rates(peak, _TPU_MEMORY[row.name] / shared, links / shared)
        island = math.prod(sides) * shared
        return ideal if slices == 1 else replace(ideal, network=(network or 0) / shared, island=island)
    if row.name not in GPU_MEMORY:
        return None
    ideal = Rates(peak, GPU_MEMORY[row.name], _NVLINK[row.name])
    if slices * sides[0] == 1:
        return ideal
    if (network := _HOST_NETWORK.get(row.name)) is None:
        return None
    return replace(ideal, network=network / row.largest_host, island=sides[1])


def edge_links(sides: list[int], *, largest: int) -> int:
    """Links of a chip at the edge of a slice: two along a side whose ends are connected, one along a shorter side.

    Args:
        sides: The topology.
        largest: Length from which the ends of a side are connected.
    """
    return sum(0 if side == 1 else 2 if side >= largest else 1 for side in sides)
