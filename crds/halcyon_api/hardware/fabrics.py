"""The fast networks of Google's GPU machines.

The facts are from Google's manifests and configurations in its container-engine-accelerators collection. Where those
have a privileged container, they also have an unprivileged variant, which is used here: GKE's device injector (an
annotation) adds the devices, and the sidecar has single capabilities. The networks have the names of Google's guides; a
cluster must use these names.
"""

from halcyon_api.hardware.kinds import Fabric, HostPath, Sidecar

LIBRARIES = "/usr/local/nvidia/lib64"
_SOURCE = (
    "Google's container-engine-accelerators collection: manifests and release notes of gpudirect-{}, read 2026-11-22"
)
_NODE_LIBRARIES = HostPath("nvidia-libraries", "/home/kubernetes/bin/nvidia/lib64", LIBRARIES)
_NODE_NVIDIA = HostPath("nvidia", "/home/kubernetes/bin/nvidia", "/usr/local/nvidia")
_NODE_GIB = HostPath("gib", "/home/kubernetes/bin/gib", "/usr/local/gib")
_SYSFS = HostPath("host-sys", "/sys", "/hostsysfs", read_only=False)
_PROC_SYS = HostPath("host-proc-sys", "/proc/sys", "/hostprocsysfs", read_only=False)
_GPU_DEVICES = (*(f"/dev/nvidia{gpu}" for gpu in range(8)), "/dev/nvidiactl", "/dev/nvidia-uvm")
_CHUNKS = {
    "NCCL_P2P_NET_CHUNKSIZE": "524288",
    "NCCL_P2P_PCI_CHUNKSIZE": "524288",
    "NCCL_P2P_NVL_CHUNKSIZE": "1048576",
}

TCPX = Fabric(
    name="GPUDirect-TCPX",
    plugin="us-docker.pkg.dev/gce-ai-infra/gpudirect-tcpx/nccl-plugin-gpudirecttcpx-dev:v3.1.12",
    source=_SOURCE.format("tcpx"),
    interfaces=tuple((f"eth{number}", f"vpc{number}") for number in range(1, 5)),
    host_paths=(_NODE_LIBRARIES,),
    socket_directory="/run/tcpx",
    environment={
        "LD_LIBRARY_PATH": LIBRARIES,
        "NCCL_ALGO": "Ring,Tree",
        "NCCL_BUFFSIZE": "4194304",
        "NCCL_CROSS_NIC": "0",
        "NCCL_DYNAMIC_CHUNK_SIZE": "524288",
        "NCCL_GPUDIRECTTCPX_CTRL_DEV": "eth0",
        "NCCL_GPUDIRECTTCPX_FORCE_ACK": "0",
        "NCCL_GPUDIRECTTCPX_PROGRAM_FLOW_STEERING_WAIT_MICROS": "500000",
        "NCCL_GPUDIRECTTCPX_RX_BINDINGS": "eth1:22-35,126-139;eth2:22-35,126-139;eth3:74-87,178-191;eth4:74-87,178-191",
        "NCCL_GPUDIRECTTCPX_SOCKET_IFNAME": "eth1,eth2,eth3,eth4",
        "NCCL_GPUDIRECTTCPX_TX_BINDINGS": "eth1:8-21,112-125;eth2:8-21,112-125;eth3:60-73,164-177;eth4:60-73,164-177",
        "NCCL_GPUDIRECTTCPX_TX_COMPLETION_NANOSLEEP": "1000",
        "NCCL_GPUDIRECTTCPX_UNIX_CLIENT_PREFIX": "/run/tcpx",
        "NCCL_MAX_NCHANNELS": "8",
        "NCCL_MIN_NCHANNELS": "8",
        "NCCL_NET_GDR_LEVEL": "PIX",
        "NCCL_NSOCKS_PERTHREAD": "4",
        "NCCL_P2P_PXN_LEVEL": "0",
        "NCCL_PROTO": "Simple",
        "NCCL_SOCKET_IFNAME": "eth0",
        "NCCL_SOCKET_NTHREADS": "1",
        **_CHUNKS,
    },
    sidecar=Sidecar(
        name="tcpx-daemon",
        image="us-docker.pkg.dev/gce-ai-infra/gpudirect-tcpx/tcpgpudmarxd-dev:v2.0.15",
        command=(
            "/tcpgpudmarxd/build/app/tcpgpudmarxd",
            "--gpu_nic_preset",
            "a3vm",
            "--gpu_shmem_type",
            "fd",
            "--uds_path",
            "/run/tcpx",
            "--setup_param",
            '\\"--verbose 128 2 0 \\"',
        ),
        capabilities=("NET_ADMIN",),
        devices=_GPU_DEVICES,
        host_paths=(_NODE_LIBRARIES, _SYSFS, _PROC_SYS),
    ),
)

TCPXO = Fabric(
    name="GPUDirect-TCPXO",
    plugin="us-docker.pkg.dev/gce-ai-infra/gpudirect-tcpxo/nccl-plugin-gpudirecttcpx-dev:v1.0.15",
    source=_SOURCE.format("tcpxo"),
    interfaces=tuple((f"eth{number}", f"vpc{number}") for number in range(1, 9)),
    host_paths=(
        _NODE_LIBRARIES,
        HostPath("aperture-devices", "/dev/aperture_devices", "/dev/aperture_devices", read_only=False),
    ),
    environment={
        "LD_LIBRARY_PATH": LIBRARIES,
        "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7",
        "NCCL_BUFFSIZE": "8388608",
        "NCCL_CROSS_NIC": "0",
        "NCCL_FASTRAK_CTRL_DEV": "eth0",
        "NCCL_FASTRAK_ENABLE_CONTROL_CHANNEL": "0",
        "NCCL_FASTRAK_ENABLE_HOTPATH_LOGGING": "0",
        "NCCL_FASTRAK_IFNAME": ",".join(f"eth{number}" for number in range(1, 9)),
        "NCCL_FASTRAK_LLCM_DEVICE_DIRECTORY": "/dev/aperture_devices",
        "NCCL_FASTRAK_NUM_FLOWS": "2",
        "NCCL_FASTRAK_PLUGIN_ACCEPT_TIMEOUT_MS": "600000",
        "NCCL_FASTRAK_USE_LLCM": "1",
        "NCCL_FASTRAK_USE_SNAP": "1",
        "NCCL_LIB_DIR": LIBRARIES,
        "NCCL_MIN_NCHANNELS": "4",
        "NCCL_NET_GDR_LEVEL": "PIX",
        "NCCL_NVLSTREE_MAX_CHUNKSIZE": "131072",
        "NCCL_NVLS_ENABLE": "1",
        "NCCL_PROTO": "Simple,LL128",
        "NCCL_SHIMNET_GUEST_CONFIG_CHECKER_CONFIG_FILE": f"{LIBRARIES}/a3plus_guest_config.textproto",
        "NCCL_SOCKET_IFNAME": "eth0",
        "NCCL_TUNER_CONFIG_PATH": f"{LIBRARIES}/a3plus_tuner_config.textproto",
        "NCCL_TUNER_PLUGIN": "libnccl-tuner.so",
        **_CHUNKS,
    },
    sidecar=Sidecar(
        name="tcpxo-daemon",
        image="us-docker.pkg.dev/gce-ai-infra/gpudirect-tcpxo/tcpgpudmarxd-dev:v1.0.21",
        command=("/bin/bash", "/fts/entrypoint_rxdm_container.sh", "--num_hops=2"),
        capabilities=("NET_ADMIN", "NET_BIND_SERVICE"),
        devices=(*_GPU_DEVICES, "/dev/dmabuf_import_helper"),
        host_paths=(_NODE_LIBRARIES, _SYSFS, _PROC_SYS),
    ),
)


def rdma(interfaces: int, settings: dict[str, str], plugin: str = "nccl-plugin-gib:v1.1.1") -> Fabric:
    """RDMA over converged Ethernet with Google's NCCL plugin (gIB), one network card per GPU."""
    return Fabric(
        name="GPUDirect-RDMA",
        plugin=f"us-docker.pkg.dev/gce-ai-infra/gpudirect-gib/{plugin}",
        source=_SOURCE.format("rdma"),
        interfaces=tuple((f"eth{number + 2}", f"rdma-{number}") for number in range(interfaces)),
        host_paths=(_NODE_NVIDIA, _NODE_GIB),
        environment={
            "LD_LIBRARY_PATH": f"/usr/local/gib/lib64:{LIBRARIES}",
            "NCCL_CROSS_NIC": "0",
            "NCCL_IB_ADAPTIVE_ROUTING": "1",
            "NCCL_IB_FIFO_TC": "84",
            "NCCL_IB_QPS_PER_CONNECTION": "4",
            "NCCL_IB_TC": "52",
            "NCCL_NET": "gIB",
            "NCCL_NET_GDR_LEVEL": "PIX",
            "NCCL_NVLS_CHUNKSIZE": "524288",
            "NCCL_P2P_NET_CHUNKSIZE": "131072",
            **settings,
        },
    )
