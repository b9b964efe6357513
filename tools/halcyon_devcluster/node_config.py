"""Configuration documents of the node's three processes, as plain dictionaries. Pure.

Settings that differ from a default have their reason beside them. Most are needed because the node runs as root on a
small machine, without systemd and without the right to lower an out-of-memory score.
"""

from pathlib import Path
from typing import Any

from halcyon_devcluster import audit
from halcyon_devcluster.addresses import CLUSTER_DOMAIN, Addresses
from halcyon_devcluster.debian import CNI_FOLDER
from halcyon_devcluster.paths import Paths


def containerd(paths: Paths, pause_image: str) -> dict[str, Any]:
    """Return containerd's configuration (written as TOML)."""
    return {
        "version": 2,
        "root": str(paths.containerd / "root"),
        "state": str(paths.containerd / "run"),
        # The kernel rejects a negative score without CAP_SYS_RESOURCE, and then no container starts.
        "oom_score": 0,
        "grpc": {"address": str(paths.containerd_socket)},
        "plugins": {
            "io.containerd.grpc.v1.cri": {
                "restrict_oom_score_adj": True,
                "sandbox_image": pause_image,
                "cni": {"bin_dir": str(CNI_FOLDER), "conf_dir": str(paths.config / "cni")},
                "containerd": {
                    "runtimes": {
                        "runc": {"runtime_type": "io.containerd.runc.v2", "options": {"SystemdCgroup": False}},
                    }
                },
            },
        },
    }


def cni(paths: Paths, addresses: Addresses) -> dict[str, Any]:
    """Return the network configuration of pods (written as JSON).

    `ptp` instead of `bridge`: the node routes every packet, so service addresses work between two pods of this node
    with any bridge-netfilter setting of the kernel, and the host reaches pods through the same routes.
    """
    return {
        "cniVersion": "0.4.0",
        "name": "halcyon",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": False,
                "ipam": {
                    "type": "host-local",
                    "dataDir": str(paths.cni),
                    "ranges": [[{"subnet": str(addresses.node_pods)}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }


def kubelet(paths: Paths, addresses: Addresses, control_group: str, *, most_pods: int | None = None) -> dict[str, Any]:
    """Return the kubelet's configuration. Its ports are the usual ones on the first node only."""
    number = addresses.number
    return {
        "port": 10250 + 100 * number,
        "healthzPort": 10248 + 100 * number,
        **({} if most_pods is None else {"maxPods": most_pods}),
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(paths.pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(paths.pki / "kubelet.crt"),
        "tlsPrivateKeyFile": str(paths.pki / "kubelet.key"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{control_group}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "containerRuntimeEndpoint": f"unix://{paths.containerd_socket}",
        "clusterDomain": CLUSTER_DOMAIN,
        "clusterDNS": [str(addresses.dns_service)],
        "resolvConf": str(paths.config / "resolv.conf"),
        "podLogsDir": str(paths.logs / "pods"),
        # The disk belongs to the host: never evict pods or delete images because it is full.
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "0%",
            "nodefs.inodesFree": "0%",
            "imagefs.available": "0%",
        },
        "imageGCHighThresholdPercent": 100,
        "imageMinimumGCAge": "8760h",
        "serializeImagePulls": False,
        "nodeStatusUpdateFrequency": "4s",
        "nodeLeaseDurationSeconds": 16,
        "kubeAPIQPS": 200,
        "kubeAPIBurst": 400,
        "eventRecordQPS": 0,
    }


def kube_proxy(paths: Paths, addresses: Addresses) -> dict[str, Any]:
    """Return kube-proxy's configuration."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "hostnameOverride": addresses.name,
        "clusterCIDR": str(addresses.pods),
        "clientConnection": {"kubeconfig": str(paths.pki / "proxy.kubeconfig")},
        # Connection-tracking limits apply to the whole machine, so leave them unchanged.
        "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "iptables": {"minSyncPeriod": "100ms", "syncPeriod": "30s"},
    }


def resolv_conf() -> str:
    """Return the node's resolver file, without name servers, because the node reaches none outside the cluster."""
    return "options ndots:1\n"


def documents(
    paths: Paths, addresses: Addresses, control_group: str, pause_image: str
) -> dict[Path, dict[str, Any] | str]:
    """Return every file of the node's configuration: path → document; the suffix selects the format."""
    config = paths.config
    return {
        config / "containerd.toml": containerd(paths, pause_image),
        config / "cni" / "10-halcyon.conflist": cni(paths, addresses),
        config / "kubelet.yaml": kubelet(paths, addresses, control_group),
        config / "kube-proxy.yaml": kube_proxy(paths, addresses),
        config / "resolv.conf": resolv_conf(),
        config / "audit-policy.yaml": audit.policy(),
    }
