"""Command lines of Kubernetes' components. Pure.

The components of a cluster run in the node's namespaces, so their fixed ports cannot collide with the host or another
cluster. etcd listens only on the namespace's loopback and does not flush to disk, which is acceptable only for a
temporary cluster.

A control plane without a node (`control_plane`) runs on the host itself: there etcd has sockets instead of ports, and
the API server has a port of the host's loopback.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from halcyon_devcluster.addresses import API_PORT, CLUSTER_DOMAIN, Addresses
from halcyon_devcluster.paths import Paths

CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
NODE = ("containerd", "kubelet", "kube-proxy")
COMPONENTS = (*CONTROL_PLANE, *NODE)
"""Every process of the cluster, in start order."""

_GO = {"GOGC": "400", "GOMEMLIMIT": "2GiB"}
"""Variables of Go's runtime. By default it collects garbage whenever the memory has doubled. The API server holds some
350 MB and makes 70 MB of garbage a second in the tests, so that took more than a third of its processor time.
GOMEMLIMIT bounds what it takes instead."""

_ETCD_CLIENT = "http://127.0.0.1:2379"
_ETCD_PEER = "http://127.0.0.1:2380"
_ETCD_SOCKETS = ("unix://etcd:1", "unix://peer:1")
"""etcd requires a host and a port even for a socket; it makes a file with that name."""
# A node that stops reporting is NotReady after 20 s instead of 50, because tests wait for it.
NODE_MONITOR_GRACE_SECONDS = 20


def environment(own: Mapping[str, str]) -> dict[str, str]:
    """The environment of a component.

    Args:
        own: The environment of this process, whose variables count.
    """
    return {**_GO, **own}


def _flags(flags: dict[str, object]) -> list[str]:
    return [f"--{name}={value}" for name, value in flags.items()]


def _etcd(paths: Paths, client: str, peer: str) -> dict[str, object]:
    return {
        "name": paths.name,
        "data-dir": paths.etcd,
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"{paths.name}={peer}",
        "unsafe-no-fsync": "true",
        "log-level": "warn",
    }


def etcd(paths: Paths) -> list[str]:
    """Return etcd's arguments."""
    return _flags(_etcd(paths, _ETCD_CLIENT, _ETCD_PEER))


def etcd_on_sockets(paths: Paths) -> list[str]:
    """Return the arguments of an etcd without ports. It makes its sockets in its working directory, `paths.state`."""
    # It is the only voter. Without these two options it waits almost a second for others before it starts.
    return _flags(_etcd(paths, *_ETCD_SOCKETS) | {"heartbeat-interval": 20, "election-timeout": 200})


def _kube_apiserver(paths: Paths, addresses: Addresses, port: int, etcd: str) -> dict[str, object]:
    pki = paths.pki
    return {
        "advertise-address": addresses.node,
        "secure-port": port,
        "etcd-servers": etcd,
        "service-cluster-ip-range": addresses.services,
        "endpoint-reconciler-type": "master-count",
        "authorization-mode": "Node,RBAC",
        "enable-admission-plugins": "NodeRestriction",
        "client-ca-file": pki / "ca.crt",
        "tls-cert-file": pki / "apiserver.crt",
        "tls-private-key-file": pki / "apiserver.key",
        "kubelet-certificate-authority": pki / "ca.crt",
        "kubelet-client-certificate": pki / "apiserver-kubelet-client.crt",
        "kubelet-client-key": pki / "apiserver-kubelet-client.key",
        "kubelet-preferred-address-types": "InternalIP",
        "service-account-issuer": f"https://kubernetes.default.svc.{CLUSTER_DOMAIN}",
        "service-account-key-file": pki / "service-accounts.pub",
        "service-account-signing-key-file": pki / "service-accounts.key",
        "profiling": "false",
    }


def kube_apiserver(paths: Paths, addresses: Addresses) -> list[str]:
    """Return the API server's arguments."""
    audit = {
        "audit-policy-file": paths.config / "audit-policy.yaml",
        "audit-log-path": paths.audit_log,
        "audit-log-maxsize": 200,  # MiB
        "audit-log-maxbackup": 1,
    }
    return _flags(_kube_apiserver(paths, addresses, API_PORT, _ETCD_CLIENT) | audit)


def kube_apiserver_on_loopback(paths: Paths, addresses: Addresses, port: int) -> list[str]:
    """Return the arguments of an API server on a loopback port, for `etcd_on_sockets`; without an audit log."""
    socket = f"unix://{paths.state}/{_ETCD_SOCKETS[0].removeprefix('unix://')}"
    return _flags(_kube_apiserver(paths, addresses, port, socket) | {"bind-address": "127.0.0.1"})


def _kube_controller_manager(paths: Paths, addresses: Addresses) -> dict[str, object]:
    pki, config = paths.pki, paths.pki / "controller-manager.kubeconfig"
    return {
        "kubeconfig": config,
        "authentication-kubeconfig": config,
        "authorization-kubeconfig": config,
        "root-ca-file": pki / "ca.crt",
        "service-account-private-key-file": pki / "service-accounts.key",
        "use-service-account-credentials": "true",
        "cluster-cidr": addresses.pods,
        "allocate-node-cidrs": "false",
        "node-monitor-grace-period": f"{NODE_MONITOR_GRACE_SECONDS}s",
        "leader-elect": "false",
        "kube-api-qps": 200,
        "kube-api-burst": 400,
        "profiling": "false",
    }


def kube_controller_manager(paths: Paths, addresses: Addresses) -> list[str]:
    """Return the controller manager's arguments."""
    return _flags(_kube_controller_manager(paths, addresses))


def kube_controller_manager_of(paths: Paths, addresses: Addresses, controllers: Sequence[str]) -> list[str]:
    """Return the arguments of a controller manager that runs only the named controllers and has no port."""
    return _flags(_kube_controller_manager(paths, addresses) | {"controllers": ",".join(controllers), "secure-port": 0})


def kube_scheduler(paths: Paths) -> list[str]:
    """Return the scheduler's arguments."""
    config = paths.pki / "scheduler.kubeconfig"
    return _flags(
        {
            "kubeconfig": config,
            "authentication-kubeconfig": config,
            "authorization-kubeconfig": config,
            "leader-elect": "false",
            "kube-api-qps": 200,
            "kube-api-burst": 400,
            "profiling": "false",
        }
    )


def containerd(paths: Paths) -> list[str]:
    """Return containerd's arguments."""
    return ["--config", str(paths.config / "containerd.toml")]


def kubelet(paths: Paths, addresses: Addresses) -> list[str]:
    """Return the kubelet's arguments; its other settings are in its configuration document."""
    return _flags(
        {
            "config": paths.config / "kubelet.yaml",
            "kubeconfig": paths.pki / "node.kubeconfig",
            "root-dir": paths.kubelet,
            "hostname-override": addresses.name,
            "node-ip": addresses.node,
        }
    )


def kube_proxy(paths: Paths) -> list[str]:
    """Return kube-proxy's arguments."""
    return _flags({"config": paths.config / "kube-proxy.yaml"})


def command(component: str, program: Path, paths: Paths, addresses: Addresses) -> list[str]:
    """Return the complete command line of `component`, one of `COMPONENTS`."""
    arguments = {
        "etcd": lambda: etcd(paths),
        "kube-apiserver": lambda: kube_apiserver(paths, addresses),
        "kube-controller-manager": lambda: kube_controller_manager(paths, addresses),
        "kube-scheduler": lambda: kube_scheduler(paths),
        "containerd": lambda: containerd(paths),
        "kubelet": lambda: kubelet(paths, addresses),
        "kube-proxy": lambda: kube_proxy(paths),
    }[component]()
    return [str(program), *arguments]
