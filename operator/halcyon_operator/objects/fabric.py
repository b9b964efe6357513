"""The parts of a pod with which GPUs of several hosts use the fast network of their machine. Pure.

Only a run that requests it (`accelerator.network: gpuDirect`), in an installation that allows it, gets these parts:
directories of the node (read-only where the fabric allows it), and for TCPX and TCPXO a sidecar that runs as root with
a few capabilities. The trainer's own container stays restricted. The sidecar is an init container that keeps running,
so that it ends with the trainer."""

from __future__ import annotations

import json
from typing import Any

from halcyon_api.hardware.kinds import Fabric, HostPath, Sidecar

INTERFACES_ANNOTATION = "networking.gke.io/interfaces"
DEFAULT_INTERFACE_ANNOTATION = "networking.gke.io/default-interface"
DEVICES_ANNOTATION = "devices.gke.io/container."
SOCKETS_VOLUME = "fabric-sockets"


def pod_annotations(fabric: Fabric) -> dict[str, str]:
    """Annotations of the pod: its networks, and the device files of its sidecar."""
    interfaces = [
        {"interfaceName": name, "network": network} for name, network in (("eth0", "default"), *fabric.interfaces)
    ]
    found = {DEFAULT_INTERFACE_ANNOTATION: "eth0", INTERFACES_ANNOTATION: json.dumps(interfaces)}
    if fabric.sidecar is not None:
        found[DEVICES_ANNOTATION + fabric.sidecar.name] = "".join(
            f"- path: {path}\n" for path in fabric.sidecar.devices
        )
    return found


def volumes(fabric: Fabric) -> list[dict[str, Any]]:
    """Volumes of the pod."""
    paths = {
        path.name: path
        for path in (*fabric.host_paths, *(fabric.sidecar.host_paths if fabric.sidecar is not None else ()))
    }
    found: list[dict[str, Any]] = [
        {"name": path.name, "hostPath": {"path": path.path, "type": "Directory"}} for path in paths.values()
    ]
    return found + ([{"name": SOCKETS_VOLUME, "emptyDir": {"sizeLimit": "64Mi"}}] if fabric.socket_directory else [])


def mounts(fabric: Fabric) -> list[dict[str, Any]]:
    """Mounts of the trainer's container."""
    return _mounts(fabric, fabric.host_paths)


def sidecars(fabric: Fabric) -> list[dict[str, Any]]:
    """Init containers of the pod."""
    return [_container(fabric, fabric.sidecar)] if fabric.sidecar is not None else []


def _container(fabric: Fabric, sidecar: Sidecar) -> dict[str, Any]:
    return {
        "name": sidecar.name,
        "image": sidecar.image,
        "imagePullPolicy": "IfNotPresent",
        "restartPolicy": "Always",
        "command": list(sidecar.command),
        "env": [{"name": name, "value": value} for name, value in sidecar.environment.items()],
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": 0,
            "runAsNonRoot": False,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"], "add": list(sidecar.capabilities)},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": _mounts(fabric, sidecar.host_paths),
    }


def _mounts(fabric: Fabric, paths: tuple[HostPath, ...]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": path.name, "mountPath": path.mount_path} | ({"readOnly": True} if path.read_only else {})
        for path in paths
    ]
    return found + ([{"name": SOCKETS_VOLUME, "mountPath": fabric.socket_directory}] if fabric.socket_directory else [])
