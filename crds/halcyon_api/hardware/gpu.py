"""NVIDIA GPUs on GKE, and on any nodes that offer ``nvidia.com/gpu``.

A topology is ``HOSTSxGPUS``; one process drives all GPUs of a host. Memory and peak performance are those of NVIDIA's
data sheets (dense bfloat16, without sparsity), and so are the narrow types: those with a higher peak.
"""

from __future__ import annotations

from typing import Any

from halcyon_api.hardware.fabrics import LIBRARIES, TCPX, TCPXO, rdma
from halcyon_api.hardware.kinds import Accelerator

RESOURCE = "nvidia.com/gpu"
_SOURCE = "xpk 1.13.1, table of systems; GKE's guides to GPU machines; NVIDIA's data sheets"
_AS_OF = "2026-11-20"
_GB = 10**9
_EVERY_KIND = ("onDemand", "spot", "reservation", "flexStart", "queued")
_MAX_HOSTS = 1024
_MAX_NVLINK_HOSTS = 18


def _gpu(name: str, title: str, label: str, counts: tuple[int, ...], **facts: Any) -> Accelerator:
    taints = facts.pop("tolerated_taints", ())
    return Accelerator(
        name,
        title,
        "gpu",
        _SOURCE,
        _AS_OF,
        node_labels={"cloud.google.com/gke-accelerator": label},
        tolerated_taints=((RESOURCE, ""), ("user-workload", "true"), *taints),
        resource=RESOURCE,
        devices_per_host=counts,
        max_hosts=facts.pop("max_hosts", _MAX_HOSTS),
        provisioning=facts.pop("provisioning", _EVERY_KIND),
        environment={"LD_LIBRARY_PATH": LIBRARIES},
        memory_backed_shm=True,
        **facts,
    )


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
        "nvidia-l4",
        (1, 2, 4, 8),
        machine_types={1: "g2-standard-12", 2: "g2-standard-24", 4: "g2-standard-48", 8: "g2-standard-96"},
        memory_bytes=24 * _GB,
        peak_flops_per_second=121e12,
        narrow=("float8", "int8"),
        compute_capability=(8, 9),
        device_kinds=("NVIDIA L4",),
        aliases=("nvidia-l4", "g2-standard"),
    ),
    _gpu(
        "a100",
        "NVIDIA A100 40 GB",
        "nvidia-tesla-a100",
        (1, 2, 4, 8),
        machine="a2-highgpu-{chips}g",
        memory_bytes=40 * _GB,
        peak_flops_per_second=312e12,
        narrow=("int8",),
        compute_capability=(8, 0),
        device_kinds=("NVIDIA A100-SXM4-40GB", "NVIDIA A100-PCIE-40GB"),
        aliases=("nvidia-tesla-a100", "nvidia-a100-40gb", "a100-40gb", "a2-highgpu"),
    ),
    _gpu(
        "a100-80gb",
        "NVIDIA A100 80 GB",
        "nvidia-a100-80gb",
        (1, 2, 4, 8),
        machine="a2-ultragpu-{chips}g",
        memory_bytes=80 * _GB,
        peak_flops_per_second=312e12,
        narrow=("int8",),
        compute_capability=(8, 0),
        device_kinds=("NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe"),
        aliases=("nvidia-a100-80gb", "a2-ultragpu"),
    ),
    _gpu(
        "h100",
        "NVIDIA H100",
        "nvidia-h100-80gb",
        (1, 2, 4, 8),
        machine="a3-highgpu-{chips}g",
        part_hosts_provisioning=("spot", "flexStart", "queued"),
        memory_bytes=80 * _GB,
        peak_flops_per_second=989e12,
        narrow=("float8", "int8"),
        compute_capability=(9, 0),
        fabric=TCPX,
        device_kinds=("NVIDIA H100 80GB HBM3", "NVIDIA H100 PCIe"),
        aliases=("nvidia-h100-80gb", "h100-80gb", "a3-highgpu-8g", "a3-highgpu"),
        tried="the trainer on one card, without a cluster",
    ),
    _gpu(
        "h100-mega",
        "NVIDIA H100 mega",
        "nvidia-h100-mega-80gb",
        (8,),
        machine="a3-megagpu-8g",
        memory_bytes=80 * _GB,
        peak_flops_per_second=989e12,
        narrow=("float8", "int8"),
        compute_capability=(9, 0),
        fabric=TCPXO,
        aliases=("nvidia-h100-mega-80gb", "h100-mega-80gb", "a3-megagpu-8g"),
    ),
    _gpu(
        "h200",
        "NVIDIA H200",
        "nvidia-h200-141gb",
        (8,),
        machine="a3-ultragpu-8g",
        memory_bytes=141 * _GB,
        peak_flops_per_second=989e12,
        narrow=("float8", "int8"),
        compute_capability=(9, 0),
        fabric=rdma(8, {"NCCL_TUNER_CONFIG_PATH": "/usr/local/gib/configs/tuner_config_a3u.txtpb"}),
        device_kinds=("NVIDIA H200",),
        aliases=("nvidia-h200-141gb", "h200-141gb", "a3-ultragpu-8g"),
        tried="the trainer on one card, without a cluster",
    ),
    _gpu(
        "b200",
        "NVIDIA B200",
        "nvidia-b200",
        (8,),
        machine="a4-highgpu-8g",
        memory_bytes=180 * _GB,
        peak_flops_per_second=2250e12,
        narrow=("float8", "int8", "mxfp8", "nvfp4"),
        compute_capability=(10, 0),
        fabric=rdma(8, {"NCCL_TUNER_CONFIG_PATH": "/usr/local/gib/configs/tuner_config_a4.txtpb"}),
        device_kinds=("NVIDIA B200",),
        aliases=("nvidia-b200", "a4-highgpu-8g"),
    ),
    _gpu(
        "gb200",
        "NVIDIA GB200",
        "nvidia-gb200",
        (4,),
        machine="a4x-highgpu-4g",
        max_hosts=_MAX_NVLINK_HOSTS,
        memory_bytes=186 * _GB,
        peak_flops_per_second=2500e12,
        narrow=("float8", "int8", "mxfp8", "nvfp4"),
        compute_capability=(10, 0),
        provisioning=("onDemand", "spot", "reservation"),
        tolerated_taints=(("kubernetes.io/arch", "arm64"),),
        pool_is_slice=True,
        fabric=rdma(4, {"NCCL_NVLS_ENABLE": "0", "NCCL_PXN_C2C": "1"}, "nccl-plugin-gib-arm64:v1.1.0"),
        compute_domain=True,
        device_kinds=("NVIDIA GB200",),
        aliases=("nvidia-gb200", "a4x-highgpu-4g"),
    ),
    _gpu(
        "gb300",
        "NVIDIA GB300",
        "nvidia-gb300",
        (4,),
        machine="a4x-maxgpu-4g-metal",
        max_hosts=_MAX_NVLINK_HOSTS,
        memory_bytes=279 * _GB,
        peak_flops_per_second=2500e12,
        narrow=("float8", "mxfp8", "nvfp4"),
        compute_capability=(10, 3),
        provisioning=("onDemand", "reservation"),
        tolerated_taints=(("kubernetes.io/arch", "arm64"),),
        pool_is_slice=True,
        compute_domain=True,
        device_kinds=("NVIDIA GB300",),
        aliases=("nvidia-gb300", "a4x-maxgpu-4g-metal", "a4x-max"),
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
        narrow=("float8", "mxfp8", "nvfp4"),
        compute_capability=(10, 3),
        memory_backed_shm=True,
        device_kinds=("NVIDIA B300 SXM6 AC",),
        aliases=("nvidia-b300", "hgx-b300"),
    ),
)
