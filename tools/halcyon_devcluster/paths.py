"""The folders of the development cluster, as a pure function of the environment.

There are two kinds of folder, never among the repository's tracked files:

* the **cache** (`HALCYON_CACHE`, default `~/.cache/halcyon`) holds results that are slow to make again: binaries under
  the hash of their inputs, the base image's archive, image layers;
* the **state** of one cluster (`HALCYON_STATE`/name, default cache/devcluster/name) holds the files that `up` makes and
  `down` deletes: keys, etcd's data, kubeconfig, process records, logs. `down` keeps only the container runtime's image
  content.

The node hides the host's `/run`, `/var/lib` and `/var/log` from its processes (see `namespaces`), and the path of a
Unix socket has at most 107 bytes. Both are checked here, before anything starts.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from halcyon_devcluster.errors import DevclusterError

DEFAULT_NAME = "halcyon"
HIDDEN_IN_NODE = ("/run", "/var/run", "/var/lib", "/var/log")
_LONGEST_SOCKET = "containerd/run/containerd.sock.ttrpc"
_SOCKET_PATH_LIMIT = 107


class Paths:
    """The folders of one cluster. Nothing is created here."""

    def __init__(self, name: str, cache: Path, state: Path) -> None:
        self.name, self.cache, self.state = name, cache, state
        self.binaries = cache / "bin"
        """Built programs, one folder per hash of inputs."""
        self.images = cache / "images"
        """Kept image archives and layouts."""
        self.lock = state.parent / f".{name}.lock"
        """The lock file that makes one process the only writer of this cluster."""
        self.kubeconfig = state / "kubeconfig"
        """The administrator's kubeconfig, for use on the host."""
        self.pki = state / "pki"
        """Keys, certificates and the components' kubeconfigs."""
        self.config = state / "config"
        """Rendered configuration of the components."""
        self.logs = state / "logs"
        """Logs: one file per component, and the pods' logs under `pods/`."""
        self.audit_log = self.logs / "audit.log"
        """The API server's audit log; a kind cluster has none."""
        self.records = state / "processes"
        """One JSON document per started process."""
        self.etcd = state / "etcd"
        """etcd's data."""
        self.kubelet = state / "kubelet"
        """The kubelet's root folder."""
        self.cni = state / "cni"
        """Addresses that the CNI plugin host-local has assigned."""
        self.containerd = state / "containerd"
        """containerd's root and state; `down` keeps the image content under `root`."""
        self.containerd_socket = self.containerd / "run" / "containerd.sock"
        """containerd's socket."""
        self.tools = state / "bin"
        """Folder with links to kubectl and helm, for the user's PATH."""


def cache_folder(environ: Mapping[str, str], home: Path) -> Path:
    """Return `HALCYON_CACHE`, or `~/.cache/halcyon` if it is unset or empty."""
    return Path(environ.get("HALCYON_CACHE") or home / ".cache" / "halcyon").absolute()


def cluster_paths(name: str, environ: Mapping[str, str], home: Path) -> Paths:
    """Return the folders of cluster `name`.

    Raises:
        DevclusterError: the name is not a DNS label of at most 20 characters, or the node could not use a folder.
    """
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,18}[a-z0-9])?", name):
        raise DevclusterError(
            f"The cluster name {name!r} must be 1 to 20 lower-case letters, digits or hyphens and begin with a letter."
        )
    cache = cache_folder(environ, home)
    root = Path(environ.get("HALCYON_STATE") or cache / "devcluster").absolute()
    for variable, folder in (("HALCYON_CACHE", cache), ("HALCYON_STATE", root)):
        if any(folder.is_relative_to(hidden) for hidden in HIDDEN_IN_NODE):
            raise DevclusterError(
                f"{variable} resolves to {folder}, which the node hides from its processes: choose a folder outside "
                f"{', '.join(HIDDEN_IN_NODE)}."
            )
    state = root / name
    if len(str(state / _LONGEST_SOCKET)) > _SOCKET_PATH_LIMIT:
        raise DevclusterError(
            f"The state folder {state} is too long for Unix sockets (limit {_SOCKET_PATH_LIMIT} bytes): set "
            "HALCYON_STATE to a shorter path."
        )
    return Paths(name=name, cache=cache, state=state)
