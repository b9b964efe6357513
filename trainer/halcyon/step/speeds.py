"""The nominal speeds of devices: for the time of a step, and for the share of collectives that computation covers.

The rates are in the hardware table (`halcyon_api.hardware`). Those of memory, links and networks are from Google's
pages on the system architecture of TPUs ("HBM bandwidth per chip"; "bidirectional inter-chip interconnect bandwidth per
chip", of which a link has an equal part in each direction; "data center network bandwidth" of a chip, or of a pod by
its chips, which the pages do not state for v4 and v7x; Jouppi et al. 2023 for v4), on the network bandwidth of GPU
machines (of the interfaces for GPUs alone where a machine has some), and from NVIDIA's data sheets (NVLink, each
direction; PCIe 4 for the L4). The memory of GPUs is from XLA's own descriptions of them. Read 2026-11-26 and, of
networks, 2026-11-27.

Latencies, read 2026-11-29: of a short kernel with its launch, NVIDIA's "Getting Started with CUDA Graphs" (2019); of
collectives of GPUs, the constants of NCCL 2.28's tuner (`src/graph/tuning.cc`: ring, LL); of a hop between TPUs, "How
to Scale Your Model" (2025), chapter 3; of the start of a step, the pause between two steps of an H100
(tests/accelerator/results, profile).
"""

import math
from dataclasses import replace

from halcyon.step.hlo.work import Rates
from halcyon_api.spec.accelerator import AcceleratorSpec

_LAUNCH, _DISPATCH, _TPU_HOP = 3.8e-6, 0.6e-3, 1e-6
_NCCL, _NVLINK_HOP, _NETWORK_HOP = 6.6e-6, 0.6e-6, 2.7e-6


def rates_of(spec: AcceleratorSpec, slices: int) -> Rates | None:
    """Speed of a device of a document. None: not known.

    Args:
        spec: ``spec.accelerator``.
        slices: Number of slices.
    """
    row = spec.row
    peak, memory, network = row.peak_flops_per_second, row.memory_bandwidth, spec.network_bandwidth
    if peak is None or memory is None:
        return None
    sides = [int(side) for side in spec.topology.split("x")]
    if row.family == "tpu":
        shared = row.devices_per_chip
        if slices > 1 and network is None:
            return None
        links = max(1, edge_links(sides, largest=16 if len(sides) == 2 else 4)) * row.link_bandwidth
        latency = _TPU_HOP * sum(side // 2 for side in sides)
        ideal = Rates(peak, memory / shared, links / shared, latency=latency, dispatch=_DISPATCH)
        island = math.prod(sides) * shared
        return ideal if slices == 1 else replace(ideal, network=(network or 0) / shared, island=island)
    latency = _NCCL + _NVLINK_HOP * (sides[1] - 1) + _NETWORK_HOP * (slices * sides[0] - 1)
    ideal = Rates(peak, memory, row.link_bandwidth, latency=latency, launch=_LAUNCH, dispatch=_DISPATCH)
    if slices * sides[0] == 1:
        return ideal
    if network is None:
        return None
    return replace(ideal, network=network / row.largest_host, island=sides[1])


def edge_links(sides: list[int], *, largest: int) -> int:
    """Links of a chip at the edge of a slice: two along a side whose ends are connected, one along a shorter side.

    Args:
        sides: The topology.
        largest: Length from which the ends of a side are connected.
    """
    return sum(0 if side == 1 else 2 if side >= largest else 1 for side in sides)
