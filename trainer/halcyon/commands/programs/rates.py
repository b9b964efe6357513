"""Nominal speeds of one device: its matrix products, its memory and its links, for the share of collectives that
computation covers.

The peak rate is in the hardware table (`halcyon_api.hardware`). The others are from Google's pages on the system
architecture of TPUs ("HBM bandwidth per chip"; "bidirectional inter-chip interconnect bandwidth per chip", of which a
link has an equal part in each direction; Jouppi et al. 2023 for v4) and from NVIDIA's data sheets (NVLink, each
direction; PCIe 4 for the L4). Read 2026-11-26.
"""

from __future__ import annotations

from halcyon.commands.programs.gpus import GPUS
from halcyon.step.hlo.schedule import Rates
from halcyon_api.spec.accelerator import AcceleratorSpec

_GB = 1e9
_TPU_MEMORY = {"v4": 1228 * _GB, "v5e": 819 * _GB, "v5p": 2765 * _GB, "v6e": 1640 * _GB, "v7x": 7380 * _GB}
"""Bytes in a second of a chip."""
_TPU_LINK = {"v4": 50 * _GB, "v5e": 50 * _GB, "v5p": 100 * _GB, "v6e": 100 * _GB, "v7x": 100 * _GB}
"""Bytes in a second of one link of a chip, in one direction."""
_NVLINK = {
    "l4": 32 * _GB, "a100": 300 * _GB, "a100-80gb": 300 * _GB, "h100": 450 * _GB, "h100-mega": 450 * _GB,
    "h200": 450 * _GB,
    "b200": 900 * _GB, "gb200": 900 * _GB, "b300": 900 * _GB, "gb300": 900 * _GB,
}  # fmt: skip


def rates_of(spec: AcceleratorSpec, slices: int) -> Rates | None:
    """Speed of a device of a document. None: not known, as of the network between GPU hosts and between slices.

    Args:
        spec: ``spec.accelerator``.
        slices: Number of slices.
    """
    row = spec.row
    if slices > 1 or row.peak_flops_per_second is None:
        return None
    sides = [int(side) for side in spec.topology.split("x")]
    if row.family == "tpu":
        shared = row.devices_per_chip
        links = max(1, edge_links(sides, largest=16 if len(sides) == 2 else 4)) * _TPU_LINK[row.name]
        return Rates(row.peak_flops_per_second, _TPU_MEMORY[row.name] / shared, links / shared)
    if row.name not in GPUS or sides[0] > 1:
        return None
    return Rates(row.peak_flops_per_second, float(GPUS[row.name].memory_bandwidth), _NVLINK[row.name])


def edge_links(sides: list[int], *, largest: int) -> int:
    """Links of a chip at the edge of a slice: two along a side whose ends are connected, one along a shorter side.

    Args:
        sides: The topology.
        largest: Length from which the ends of a side are connected.
    """
    return sum(0 if side == 1 else 2 if side >= largest else 1 for side in sides)
