"""An API server with its etcd and no node, to test what the API server alone decides (schemas, CEL, RBAC, admission,
`kubectl diff`).

They are plain processes on this machine's loopback: they need no root, no namespaces and no control groups, and start
in seconds. Without controllers, no namespace gets the service account `default` or ends after its deletion, no quota is
counted, no garbage is collected, and no pod is created or runs. `controllers` starts single controllers.

The processes end with the process that started them, even if it is killed. They form one Unix process group, whose
leader is a shell that reads from a pipe: when the starting process ends, the pipe is closed, and the shell removes the
files and kills the group.
"""

import os
import shutil
import signal
import ssl
import subprocess
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from ipaddress import IPv4Network
from os import killpg
from pathlib import Path
from types import TracebackType

from halcyon_devcluster import components, pki
from halcyon_devcluster.addresses import Addresses
from halcyon_devcluster.binaries import Binaries
from halcyon_devcluster.errors import DevclusterError
from halcyon_devcluster.files import last_line
from halcyon_devcluster.kubectl import Kubectl
from halcyon_devcluster.machine import limit
from halcyon_devcluster.paths import Paths
from halcyon_devcluster.programs import KUBERNETES
from halcyon_devcluster.waiting import until

_NAME = "control-plane"
_ADDRESSES = Addresses(_NAME, IPv4Network("10.100.0.0/16"))
"""Not reachable: the API server needs a service range and an address as arguments but does not use them here."""
_GUARD = 'read -r _; rm -rf "$0"; kill -9 0'
_READY_SECONDS = 60


class ControlPlane:
    """An API server that runs inside a `with` block; its objects and files are deleted at the end.

    Args:
        binaries: The cache of programs; Kubernetes is built if it is missing.
        port: A free TCP port of this machine's loopback.
    """

    def __init__(self, binaries: Binaries, port: int) -> None:
        self._binaries = binaries
        self._port = port
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "ControlPlane":
        self._binaries.folder(KUBERNETES)
        folder = Path(tempfile.mkdtemp(prefix="halcyon-api-"))
        self._paths = Paths(_NAME, cache=folder, state=folder)
        self._guard = subprocess.Popen(["/bin/sh", "-c", _GUARD, folder], stdin=subprocess.PIPE, process_group=0)
        try:
            # etcd starts first, while the keys are made; the API server waits until etcd answers.
            self._start("etcd", components.etcd_on_sockets(self._paths))
            keys = self._paths.pki
            pki.create(keys, _ADDRESSES, datetime.now(UTC))
            pki.write_kubeconfig(self.kubeconfig, keys, "admin", self.url, _NAME)
            pki.write_kubeconfig(keys / "controller-manager.kubeconfig", keys, "controller-manager", self.url, _NAME)
            self._start("kube-apiserver", components.kube_apiserver_on_loopback(self._paths, _ADDRESSES, self._port))
            self._await("kube-apiserver", self._ready)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    @property
    def url(self) -> str:
        """Address of the API server."""
        return f"https://127.0.0.1:{self._port}"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self._paths.kubeconfig

    @property
    def kubectl(self) -> Kubectl:
        """kubectl against this API server. Its discovery cache is deleted with the server."""
        return Kubectl(self._binaries.path(KUBERNETES, "kubectl"), self.kubeconfig, cache=self._paths.state / "kubectl")

    @contextmanager
    def controllers(self, *names: str) -> Iterator[None]:
        """Run these controllers of the controller manager inside the block, without waiting for them to start."""
        self._start("kube-controller-manager", components.kube_controller_manager_of(self._paths, _ADDRESSES, names))
        try:
            yield
        finally:
            process = self._started.pop("kube-controller-manager")
            process.kill()
            process.wait()

    def _start(self, name: str, arguments: list[str]) -> None:
        command = [str(self._binaries.path(KUBERNETES, name)), *arguments]
        with (self._paths.state / f"{name}.log").open("ab") as log:
            self._started[name] = subprocess.Popen(
                command,
                cwd=self._paths.state,
                env=components.environment(os.environ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=self._guard.pid,
            )

    def _ready(self) -> bool:
        folder = self._paths.pki
        trusted = ssl.create_default_context(cafile=str(folder / "ca.crt"))
        trusted.load_cert_chain(folder / "admin.crt", folder / "admin.key")
        with (
            suppress(OSError),
            urllib.request.urlopen(f"{self.url}/readyz", timeout=limit(5), context=trusted) as answer,  # noqa: S310
        ):
            return answer.status == 200
        return False

    def _await(self, name: str, condition: Callable[[], bool]) -> None:
        """Wait for a condition.

        Raises:
            DevclusterError: a process ended, or the condition is not true in time.
        """

        def ended() -> list[str]:
            return [started for started, process in self._started.items() if process.poll() is not None]

        def why() -> str:
            (who, what) = (ended() or [name])[0], "ended" if ended() else "does not become ready"
            return f"{who} {what}: the last line of its log is {last_line(self._paths.state / f'{who}.log')!r}."

        until(lambda: bool(ended()) or condition(), timeout_seconds=_READY_SECONDS, failure=why)
        if ended():
            raise DevclusterError(why())

    def _end(self) -> None:
        """Kill all processes without a grace period, because none of their data is kept."""
        killpg(self._guard.pid, signal.SIGKILL)
        for process in (*self._started.values(), self._guard):
            process.wait()
        if self._guard.stdin is not None:
            self._guard.stdin.close()
        shutil.rmtree(self._paths.state, ignore_errors=True)
