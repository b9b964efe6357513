"""NVIDIA GPUs on GKE, and on any nodes that offer ``nvidia.com/gpu``; AMD's on nodes that offer ``amd.com/gpu``.

All that is known of a GPU is in its row, and what it shares with others of its compute capability is in one of
`ARCHITECTURES`: a new GPU changes no other file.

A topology is ``HOSTSxGPUS``; one process drives all GPUs of a host. Memory and peak performance are those of NVIDIA's
data sheets (dense bfloat16, without sparsity), and so are the narrow types: those with a higher peak. The facts for the
compiler are XLA's own descriptions of GPUs (``openxla/xla: xla/backends/gpu/target_config/specs``, read 2026-11-26);
for the L4, which has none there, NVIDIA's data sheet and the table of compute capabilities in the CUDA C++ programming
guide. The sizes of machines are those of Google's tables.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from halcyon_api.hardware.kinds import Accelerator, Architecture, Chip, Fabric, GpuKernel, Tile
from halcyon_api.yaml_text import read_document

RESOURCE = "nvidia.com/gpu"
LIBRARIES = "/usr/local/nvidia/lib64"
_FABRICS = TypeAdapter(dict[str, Fabric]).validate_python(
    read_document(Path(__file__).with_name("fabrics.yaml").read_text(encoding="utf-8"))
)
"""The fast networks of Google's machines."""
_SOURCE = "xpk 1.13.1, table of systems; GKE's guides to GPU machines; NVIDIA's data sheets"
_AS_OF = "2026-11-20"
_MB, _GB = 10**6, 10**9
_GBIT = _GB // 8
_EVERY_KIND = ("onDemand", "spot", "reservation", "flexStart", "queued")
_MAX_HOSTS = 1024
_MAX_NVLINK_HOSTS = 18


_TRITON = GpuKernel("triton", 256, 256, keeps_table=True)
_SMALL_TRITON = replace(_TRITON, widest_value=128)
_WIDE, _SMALL = Tile(128, 256, 32, warps=8, stages=4), Tile(128, 128, 32, warps=4, stages=3)
_SQUARE = Tile(256, 256, 64, warps=8, stages=3)
_AMPERE = Architecture((_TRITON,), ("int8",), _WIDE, _SMALL, shared_kib=164, float_units=64)
_AMPERE_86 = replace(_AMPERE, attention=(_SMALL_TRITON,), shared_kib=100, threads=1536, float_units=128)
_ADA = replace(_AMPERE_86, narrow=("float8", "int8"))
_BLACKWELL = Architecture(
    (GpuKernel("mosaic_gpu", 192, 192, soft_cap=True, gradients="blackwell"), _TRITON),
    ("float8", "int8", "mxfp8", "nvfp4"),
    tile=_SQUARE,
    outer=_SQUARE,
)
ARCHITECTURES: dict[tuple[int, int], Architecture] = {
    (8, 0): _AMPERE,
    (8, 6): _AMPERE_86,
    (8, 7): _AMPERE,
    (8, 8): _AMPERE_86,
    (8, 9): _ADA,
    (9, 0): Architecture(
        (GpuKernel("mosaic_gpu", 256, 256, soft_cap=True, gradients="hopper"),),
        ("float8", "int8"),
        tile=Tile(128, 256, 64, warps=8, stages=4),
        outer=Tile(128, 256, 64, warps=8, stages=3),
        outer_of_few=Tile(128, 128, 32, warps=4, stages=4),
    ),
    (10, 0): _BLACKWELL,
    (10, 3): replace(_BLACKWELL, narrow=("float8", "mxfp8", "nvfp4")),
    (11, 0): _ADA,
    (12, 0): replace(_ADA, attention=(replace(_SMALL_TRITON, ranges=False),)),
}
"""By the compute capability from which on they are so, oldest first.

The kernels of attention are those of tokamax 0.0.17, and our own backward passes, which compute visible tiles alone.
Their facts are of tokamax's sources and of programs that were compiled for each, forward and backward:

- Mosaic GPU: its backward pass exists for compute capability 9 and 10 only. Its widest head follows from the shared
  memory of one block.
- Triton: its backward pass has no soft cap, and reads the ranges of keys (documents, windows) from a table of one byte
  for each query and key. Reading that table does not compile for compute capability 12. Compute capability 8.6, 8.9 and
  12 have 99 KiB of shared memory, which bounds the width of values and the tiles of groups.
"""


def capability_of(text: str) -> tuple[int, int] | None:
    """The numbers of a compute capability as JAX writes it, such as ``9.0``. None: it is none."""
    major, _, minor = text.partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None


def architecture_of(compute_capability: tuple[int, int]) -> Architecture | None:
    """The newest architecture that is not newer than a compute capability; None: older than all."""
    return next((row for least, row in reversed(ARCHITECTURES.items()) if least <= compute_capability), None)


def _gpu(
    name: str,
    title: str,
    compute_capability: tuple[int, int],
    label: str,
    counts: tuple[int, ...],
    of_machine: tuple[int, int],
    **facts: Any,
) -> Accelerator:
    """A GPU on GKE. `of_machine` is its part of the machine's memory, in GiB, and of its virtual CPUs."""
    taints = facts.pop("tolerated_taints", ())
    facts.setdefault("device_kinds", (title,))
    return Accelerator(
        name,
        title,
        "gpu",
        _SOURCE,
        _AS_OF,
        node_labels={"cloud.google.com/gke-accelerator": label},
        tolerated_taints=((RESOURCE, ""), ("user-workload", "true"), *taints),
        resource=RESOURCE,
        compute_capability=compute_capability,
        narrow=ARCHITECTURES[compute_capability].narrow,
        devices_per_host=counts,
        machine_sizes={count: (of_machine[0] * count, of_machine[1] * count) for count in counts},
        max_hosts=facts.pop("max_hosts", _MAX_HOSTS),
        provisioning=facts.pop("provisioning", _EVERY_KIND),
        environment={"LD_LIBRARY_PATH": LIBRARIES},
        memory_backed_shm=True,
        **facts,
    )


_H100: dict[str, Any] = {
    "chip": Chip(132, 84942979072, 52428800, 1.98),
    "memory_bytes": 80 * _GB,
    "peak_flops_per_second": 989e12,
    "memory_bandwidth": 3_352_320 * _MB,
    "link_bandwidth": 450 * _GB,
}


def _amd(name: str, model: str, device_id: str, peak: float, memory: int, bandwidth: int, link: int) -> Accelerator:
    """A GPU of AMD. Its narrow types are left out: nobody has tried XLA's products in them."""
    return Accelerator(
        name,
        f"AMD Instinct {model}",
        "gpu",
        "AMD's figures as others cite them (its data sheets were not read); AMD's device plugin and node labeller for "
        "Kubernetes; PCI ids in vLLM",
        "2026-11-30",
        node_labels={"amd.com/gpu.device-id": device_id},
        tolerated_taints=(("amd.com/gpu", ""),),
        resource="amd.com/gpu",
        devices_per_host=(1, 2, 4, 8),
        max_hosts=_MAX_HOSTS,
        memory_bytes=memory,
        peak_flops_per_second=peak,
        memory_bandwidth=bandwidth,
        link_bandwidth=link,
        memory_backed_shm=True,
        device_kinds=(f"AMD Instinct {model}",),
    )


_RACK: dict[str, Any] = {
    "max_hosts": _MAX_NVLINK_HOSTS,
    "peak_flops_per_second": 2500e12,
    "memory_bandwidth": 7_928_064 * _MB,
    "link_bandwidth": 900 * _GB,
    "tolerated_taints": (("kubernetes.io/arch", "arm64"),),
    "pool_is_slice": True,
    "compute_domain": True,
}
GPUS = (
    Accelerator(
        "nvidia",
        "any NVIDIA GPU",
        "gpu",
        "NVIDIA's device plugin for Kubernetes: resource and taint names",
        _AS_OF,
        tolerated_taints=((RESOURCE, ""),),
        resource=RESOURCE,
        max_devices_per_host=16,
        max_hosts=_MAX_HOSTS,
        narrow=("float8", "int8", "mxfp8", "nvfp4"),  # the trainer asks the devices that it finds
        memory_backed_shm=True,
        aliases=("gpu", "cuda", "a10g", "t4", "v100"),
    ),
    _gpu(
        "l4",
        "NVIDIA L4",
        (8, 9),
        "nvidia-l4",
        (1, 2, 4, 8),
        (48, 12),
        machine="g2-standard-{cpus}",
        list_price=1.0,
        chip=Chip(58, 24 * _GB, 50331648, 2.04),
        memory_bytes=24 * _GB,
        peak_flops_per_second=121e12,
        memory_bandwidth=300 * _GB,
        link_bandwidth=32 * _GB,
        network_bandwidth=100 * _GBIT,
    ),
    _gpu(
        "a100",
        "NVIDIA A100 40 GB",
        (8, 0),
        "nvidia-tesla-a100",
        (1, 2, 4, 8),
        (85, 12),
        machine="a2-highgpu-{chips}g",
        list_price=3.67,
        chip=Chip(108, 42331013120, 41943040, 1.41),
        memory_bytes=40 * _GB,
        peak_flops_per_second=312e12,
        memory_bandwidth=1_555_200 * _MB,
        link_bandwidth=300 * _GB,
        network_bandwidth=100 * _GBIT,
        device_kinds=("NVIDIA A100-SXM4-40GB", "NVIDIA A100-PCIE-40GB"),
        aliases=("a100-40gb",),
    ),
    _gpu(
        "a100-80gb",
        "NVIDIA A100 80 GB",
        (8, 0),
        "nvidia-a100-80gb",
        (1, 2, 4, 8),
        (170, 12),
        machine="a2-ultragpu-{chips}g",
        list_price=5.03,
        chip=Chip(108, 85100068864, 41943040, 1.41),
        memory_bytes=80 * _GB,
        peak_flops_per_second=312e12,
        memory_bandwidth=2_039_040 * _MB,
        link_bandwidth=300 * _GB,
        network_bandwidth=100 * _GBIT,
        device_kinds=("NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe"),
    ),
    _gpu(
        "h100",
        "NVIDIA H100",
        (9, 0),
        "nvidia-h100-80gb",
        (1, 2, 4, 8),
        (234, 26),
        machine="a3-highgpu-{chips}g",
        part_hosts_provisioning=("spot", "flexStart", "queued"),
        list_price=10.98,
        **_H100,
        network_bandwidth=800 * _GBIT,
        fabric=_FABRICS["tcpx"],
        device_kinds=("NVIDIA H100 80GB HBM3", "NVIDIA H100 PCIe"),
        tried="the trainer on one card, without a cluster",
    ),
    _gpu(
        "h100-mega",
        "NVIDIA H100 mega",
        (9, 0),
        "nvidia-h100-mega-80gb",
        (8,),
        (234, 26),
        machine="a3-megagpu-8g",
        list_price=11.53,
        **_H100,
        network_bandwidth=1600 * _GBIT,
        fabric=_FABRICS["tcpxo"],
        device_kinds=("NVIDIA H100 80GB HBM3",),
    ),
    _gpu(
        "h200",
        "NVIDIA H200",
        (9, 0),
        "nvidia-h200-141gb",
        (8,),
        (369, 28),
        machine="a3-ultragpu-8g",
        list_price=10.84,
        chip=Chip(132, 151397597184, 52428800, 1.98),
        memory_bytes=141 * _GB,
        peak_flops_per_second=989e12,
        memory_bandwidth=4800 * _GB,
        link_bandwidth=450 * _GB,
        network_bandwidth=3200 * _GBIT,
        fabric=_FABRICS["a3-ultra"],
        tried="the trainer on one card, without a cluster",
    ),
    _gpu(
        "b200",
        "NVIDIA B200",
        (10, 0),
        "nvidia-b200",
        (8,),
        (496, 28),
        machine="a4-highgpu-8g",
        chip=Chip(148, 191514411008, 132644864, 1.965),
        memory_bytes=180 * _GB,
        peak_flops_per_second=2250e12,
        memory_bandwidth=7_672_320 * _MB,
        link_bandwidth=900 * _GB,
        network_bandwidth=3200 * _GBIT,
        fabric=_FABRICS["a4"],
    ),
    _gpu(
        "gb200",
        "NVIDIA GB200",
        (10, 0),
        "nvidia-gb200",
        (4,),
        (221, 35),
        machine="a4x-highgpu-4g",
        chip=Chip(152, 197897748480, 135528448, 2.062),
        memory_bytes=186 * _GB,
        **_RACK,
        network_bandwidth=1600 * _GBIT,
        provisioning=("onDemand", "spot", "reservation"),
        fabric=_FABRICS["a4x"],
    ),
    _gpu(
        "gb300",
        "NVIDIA GB300",
        (10, 3),
        "nvidia-gb300",
        (4,),
        (221, 35),  # a lower bound: the hosts of A4X, as no table of A4X Max was found
        machine="a4x-maxgpu-4g-metal",
        chip=Chip(152, 297021079552, 135528448, 2.07),
        memory_bytes=279 * _GB,
        **_RACK,
        network_bandwidth=3200 * _GBIT,
        provisioning=("onDemand", "reservation"),
        aliases=("a4x-max",),
    ),
    _gpu(
        "rtx-pro-6000",
        "NVIDIA RTX PRO 6000 Blackwell Server Edition",
        (12, 0),
        "nvidia-rtx-pro-6000",
        (1, 2, 4, 8),
        (180, 48),
        machine="g4-standard-{cpus}",
        chip=Chip(188, 103079215104, 134217728, 2.6),
        memory_bytes=96 * _GB,
        peak_flops_per_second=503.8e12,
        memory_bandwidth=1597 * _GB,
        link_bandwidth=64 * _GB,
        network_bandwidth=400 * _GBIT,
        aliases=("g4", "rtx-6000-pro"),
    ),
    Accelerator(
        "b300",
        "NVIDIA B300",
        "gpu",
        "NVIDIA's data sheet of HGX B300; the label that NVIDIA's GPU feature discovery gives; GKE has no such machine",
        "2026-11-22",
        node_labels={"nvidia.com/gpu.product": "NVIDIA-B300-SXM6-AC"},
        tolerated_taints=((RESOURCE, ""),),
        resource=RESOURCE,
        devices_per_host=(8,),
        max_hosts=_MAX_HOSTS,
        memory_bytes=288 * _GB,
        peak_flops_per_second=2250e12,
        memory_bandwidth=7936 * _GB,
        link_bandwidth=900 * _GB,
        chip=Chip(158, 297021865984, 135528448, 1.965),
        narrow=ARCHITECTURES[10, 3].narrow,
        compute_capability=(10, 3),
        memory_backed_shm=True,
        device_kinds=("NVIDIA B300 SXM6 AC",),
        aliases=("hgx-b300",),
    ),
    _amd("mi300x", "MI300X", "74a1", 1307.4e12, 192 * _GB, 5300 * _GB, 7 * 64 * _GB),
    _amd("mi355x", "MI355X", "75a3", 2516.6e12, 288 * _GB, 8000 * _GB, 537_600 * _MB),
)
