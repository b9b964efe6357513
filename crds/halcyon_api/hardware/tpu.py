"""TPU slices on GKE.

Labels, machine types and topologies are those of the table of systems of xpk 1.13.1, Google's job launcher. Memory and
peak performance of a chip, the narrow types, and the number of JAX devices per chip are from Google's system
architecture pages. Slices of one host with eight chips (``ct5lp-hightpu-8t``, ``ct6e-standard-8t``) have the label of
the two-host slice ``2x4`` and are not in the table: if a cluster has both, `scheduling.nodeSelector` must distinguish
them.
"""

from typing import Any

from halcyon_api.hardware.kinds import GIB, Accelerator

RESOURCE = "google.com/tpu"
_GB = 10**9
_GBIT = _GB // 8
_SOURCE = "xpk 1.13.1, table of systems; Google Cloud TPU system architecture"
_AS_OF = "2026-11-20"
_FLAT = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_TORUS = ("2x2x1", "2x2x2", "2x2x4", "2x4x4")
_EVERY_KIND = ("onDemand", "spot", "reservation", "flexStart", "queued")


def _tpu(name: str, title: str, label: str, **facts: Any) -> Accelerator:
    return Accelerator(
        name,
        title,
        "tpu",
        _SOURCE,
        _AS_OF,
        node_labels={"cloud.google.com/gke-tpu-accelerator": label},
        tolerated_taints=((RESOURCE, ""),),
        resource=RESOURCE,
        pool_is_slice=True,
        **facts,
    )


TPUS = (
    _tpu(
        "v4",
        "TPU v4",
        "tpu-v4-podslice",
        machine="ct4p-hightpu-{chips}t",
        machine_sizes={4: (407, 240)},
        topologies=_TORUS,
        max_cubes=64,
        memory_bytes=32 * GIB,
        peak_flops_per_second=275e12,
        memory_bandwidth=1228 * _GB,
        link_bandwidth=50 * _GB,
        list_price=3.22,
        provisioning=("onDemand", "spot", "reservation"),
        device_kinds=("TPU v4",),
        aliases=("v4p", "tpuv4"),
    ),
    _tpu(
        "v5e",
        "TPU v5e",
        "tpu-v5-lite-podslice",
        machine="ct5lp-hightpu-{chips}t",
        machine_sizes={1: (48, 24), 4: (192, 112)},
        topologies=("1x1", *_FLAT),
        memory_bytes=16 * GIB,
        peak_flops_per_second=197e12,
        memory_bandwidth=819 * _GB,
        link_bandwidth=50 * _GB,
        network_bandwidth=25 * _GBIT,
        list_price=1.2,
        narrow=("int8",),
        provisioning=_EVERY_KIND,
        device_kinds=("TPU v5 lite", "TPU v5e"),
        aliases=("tpu-v5-lite-device", "v5litepod", "v5lite", "v5lp"),
    ),
    _tpu(
        "v5p",
        "TPU v5p",
        "tpu-v5p-slice",
        machine="ct5p-hightpu-{chips}t",
        machine_sizes={4: (448, 208)},
        topologies=_TORUS,
        max_cubes=140,
        rising_sides=True,
        memory_bytes=95 * GIB,
        peak_flops_per_second=459e12,
        memory_bandwidth=2765 * _GB,
        link_bandwidth=100 * _GB,
        network_bandwidth=50 * _GBIT,
        list_price=4.2,
        narrow=("int8",),
        provisioning=_EVERY_KIND,
        device_kinds=("TPU v5", "TPU v5p"),
    ),
    _tpu(
        "v6e",
        "TPU v6e (Trillium)",
        "tpu-v6e-slice",
        machine="ct6e-standard-{chips}t",
        machine_sizes={1: (176, 44), 4: (720, 180)},
        topologies=("1x1", *_FLAT),
        memory_bytes=32 * GIB,
        peak_flops_per_second=918e12,
        memory_bandwidth=1640 * _GB,
        link_bandwidth=100 * _GB,
        network_bandwidth=100 * _GBIT,
        list_price=2.7,
        narrow=("int8",),
        provisioning=_EVERY_KIND,
        device_kinds=("TPU v6 lite", "TPU v6e"),
        aliases=("trillium", "v6"),
    ),
    _tpu(
        "v7x",
        "TPU7x (Ironwood)",
        "tpu7x",
        machine="tpu7x-standard-{chips}t",
        machine_sizes={1: (240, 56), 4: (960, 224)},
        topologies=("1x1x1", *_TORUS),
        max_cubes=144,
        rising_sides=True,
        devices_per_chip=2,
        memory_bytes=96 * GIB,
        peak_flops_per_second=2307e12 / 2,
        memory_bandwidth=7380 * _GB,
        link_bandwidth=100 * _GB,
        narrow=("float8",),
        process_addresses=True,
        provisioning=("onDemand", "spot", "reservation"),
        device_kinds=("TPU7x",),
        aliases=("tpu7", "ironwood", "v7"),
    ),
)
