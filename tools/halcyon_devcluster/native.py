"""The native cluster: the order in which its parts are made, repaired, checked and removed.

`up` has two paths. If the node's namespaces exist and its configuration is complete, it starts the components that do
not run and waits for the conditions, which takes a few seconds. Otherwise, after an interrupted `up` or a reboot, it
removes all leftovers and starts from the beginning, so that it need not handle partial states. `down` ends every
process of the control group; the kernel then removes namespaces, mounts, links and rules.
"""

import json
import os
import shutil
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Network
from pathlib import Path

from halcyon_devcluster import addons, components, node_config, own_images, pki, programs
from halcyon_devcluster.addresses import Addresses, parse_routes, pick_block
from halcyon_devcluster.binaries import Binaries
from halcyon_devcluster.cgroups import ControlGroup
from halcyon_devcluster.cluster import Cluster, ClusterStatus, ComponentStatus
from halcyon_devcluster.commands import run
from halcyon_devcluster.containerd import Ctr
from halcyon_devcluster.debian import NODE_REQUIREMENTS, ensure_packages
from halcyon_devcluster.engine import Backend
from halcyon_devcluster.errors import DevclusterError
from halcyon_devcluster.files import delete, filesystem_type, last_line, link_tools, write_document
from halcyon_devcluster.loading import load_archive, load_image
from halcyon_devcluster.lock import exclusive
from halcyon_devcluster.namespaces import anchor_command, enter, link_commands, remove_link, write_kernel_settings
from halcyon_devcluster.paths import Paths
from halcyon_devcluster.processes import Processes
from halcyon_devcluster.progress import ProgressView
from halcyon_devcluster.waiting import until
from halcyon_devcluster.worker import Worker, worker_group

_ANCHOR = "anchor"
_MARKER = "cluster.json"
_SYSTEM_PROGRAMS = {"containerd": "/usr/bin/containerd"}


@dataclass(frozen=True)
class _Facts:
    """Decisions made when the cluster was made.

    Written last, so the file exists only if the configuration is complete.
    """

    block: str
    kubernetes: str
    jobset_image: str
    coredns_image: str


class NativeCluster(Cluster):
    """A single-node cluster in namespaces of this machine."""

    backend = Backend.NATIVE

    def __init__(self, paths: Paths, progress: ProgressView) -> None:
        self.paths = paths
        self._progress = progress
        self._binaries = Binaries(paths.cache, progress)
        self._processes = Processes(paths.records, paths.logs)
        self._group = ControlGroup(paths.name)
        self._marker = paths.state / _MARKER
        self._containerd_dirty = paths.containerd / "in-use"

    @staticmethod
    def exists(paths: Paths) -> bool:
        """Whether a native cluster was made in these folders and not taken down."""
        return (paths.state / _MARKER).is_file()

    @property
    def ctr(self) -> Ctr:
        """The client of the node's containerd."""
        return Ctr.on_socket(self.paths.containerd_socket)

    def up(self) -> None:
        """Make the cluster, or start its missing components."""
        with self._as_only_writer():
            ensure_packages(NODE_REQUIREMENTS, self.paths.cache / "apt.log", self._progress)
            self._binaries.provide(programs.NATIVE_GROUPS)
            facts = self._facts()
            if facts is None or self._processes.running(_ANCHOR) is None:
                self._clean()
                facts = self._prepare()
            elif facts.kubernetes != self._binaries.folder(programs.KUBERNETES).name:
                self._progress.say(
                    "The cluster runs programs of an older build; run `down` and `up` to use the new ones."
                )
            self._start(facts)

    def down(self, *, purge: bool = False) -> None:
        """Take the cluster down."""
        with self._as_only_writer(), self._progress.step(f"Taking cluster {self.paths.name} down"):
            self._clean()
            if purge:
                shutil.rmtree(self.paths.state, ignore_errors=True)

    def status(self) -> ClusterStatus:
        """Check every component."""
        facts = self._facts()
        if facts is None:
            return ClusterStatus(self.backend, ())
        kubernetes = self._binaries.version(programs.KUBERNETES)
        rows = []
        for name in components.COMPONENTS:
            record = self._processes.running(name)
            version = "" if name in ("etcd", "containerd") else kubernetes
            rows.append(
                ComponentStatus(name, record is not None, f"pid {record.pid}" if record else "not running", version)
            )
        kubectl = self.kubectl
        answers = kubectl.api_ready()
        rows += [
            ComponentStatus("API", answers, Addresses(self.paths.name, IPv4Network(facts.block)).api_url, kubernetes),
            ComponentStatus(
                "node Ready", answers and kubectl.condition("node", self.paths.name, "Ready"), self.paths.name
            ),
            ComponentStatus(
                "CoreDNS Available",
                answers and addons.dns_available(kubectl),
                "",
                self._binaries.version(programs.COREDNS),
            ),
            ComponentStatus(
                "JobSet Available",
                answers and addons.JOBSET.available(kubectl),
                "",
                self._binaries.version(programs.JOBSET),
            ),
        ]
        return ClusterStatus(self.backend, tuple(rows))

    def load(self, image: str) -> str:
        """Make an image usable by pods."""
        if not self._processes.running("containerd"):
            raise DevclusterError(f"The cluster {self.paths.name} is not up: run `python -m halcyon_devcluster up`.")
        return load_image(self.ctr, image, self.paths.images, self._progress)

    def worker(self, *, most_pods: int) -> Worker:
        """A further node, which is not made yet; the cluster must be up. It is gone after `down`.

        Args:
            most_pods: The number of pods that it takes.
        """
        facts, anchor = self._facts(), self._processes.running(_ANCHOR)
        if facts is None or anchor is None:
            raise DevclusterError(f"The cluster {self.paths.name} is not up: run `python -m halcyon_devcluster up`.")
        pause, _ = own_images.make(own_images.PAUSE, self._binaries, self.paths.images)
        kubelet = self._binaries.path(programs.KUBERNETES, "kubelet")
        return Worker(
            self.paths, IPv4Network(facts.block), anchor.pid, kubelet, pause, self.kubectl, self._progress, most_pods
        )

    def stop_component(self, name: str) -> None:
        """Kill one component, like a crash, and return when it has ended."""
        self._processes.stop(_known(name), force=True)

    def start_component(self, name: str) -> None:
        """Start one component again."""
        facts, anchor = self._facts(), self._processes.running(_ANCHOR)
        if facts is None or anchor is None:
            raise DevclusterError(f"The cluster {self.paths.name} is not up: run `python -m halcyon_devcluster up`.")
        self._ensure(_known(name), anchor.pid, Addresses(self.paths.name, IPv4Network(facts.block)))

    def freeze_kubelet(self) -> None:
        """Send SIGSTOP to the kubelet."""
        self._processes.send("kubelet", signal.SIGSTOP)

    def thaw_kubelet(self) -> None:
        """Send SIGCONT to the kubelet."""
        self._processes.send("kubelet", signal.SIGCONT)

    # Making

    def _as_only_writer(self) -> AbstractContextManager[None]:
        if os.geteuid() != 0:
            raise DevclusterError("A cluster without Docker needs root: run as root, or start Docker.")
        return exclusive(self.paths.lock, self._progress)

    def _prepare(self) -> _Facts:
        """Make the namespaces, addresses, keys and configuration of a new cluster."""
        paths = self.paths
        if filesystem_type(paths.state.resolve(), Path("/proc/self/mounts").read_text()) == "overlay":
            raise DevclusterError(
                f"{paths.state} lies on an overlay file system, which cannot hold the layers of containers: set "
                "HALCYON_STATE to a folder on a disk or a volume."
            )
        with self._progress.step("Preparing the node's namespaces, keys and configuration"):
            addresses = Addresses(paths.name, pick_block(paths.name, routed_networks()))
            self._group.create()
            write_kernel_settings(paths.config / "sysctl")
            anchor = self._processes.start(_ANCHOR, anchor_command(paths.config / "sysctl"), self._group.members_file)
            self._await(_ANCHOR, Path(f"/proc/{anchor.pid}/root/run/prepared").exists)
            for command in link_commands(anchor.pid, addresses):
                run(command)
            pki.create(paths.pki, addresses, datetime.now(UTC))
            for identity in ("controller-manager", "scheduler", "proxy", "node"):
                pki.write_kubeconfig(
                    paths.pki / f"{identity}.kubeconfig", paths.pki, identity, addresses.api_url, paths.name
                )
            pki.write_kubeconfig(paths.kubeconfig, paths.pki, "admin", addresses.api_url, paths.name)
            images = {image.program: own_images.make(image, self._binaries, paths.images)[0] for image in _OWN_IMAGES}
            documents = node_config.documents(paths, addresses, self._group.name, images["pause"])
            for path, document in documents.items():
                write_document(path, document)
            link_tools(
                paths.tools,
                kubectl=self._binaries.path(programs.KUBERNETES, "kubectl"),
                helm=self._binaries.path(programs.HELM, "helm"),
            )
            facts = _Facts(
                block=str(addresses.block),
                kubernetes=self._binaries.folder(programs.KUBERNETES).name,
                jobset_image=images["jobset"],
                coredns_image=images["coredns"],
            )
            write_document(self._marker, vars(facts))
        return facts

    def _start(self, facts: _Facts) -> None:
        """Start every component that does not run, and wait for the conditions in the order in which they become
        true.
        """
        addresses, kubectl = Addresses(self.paths.name, IPv4Network(facts.block)), self.kubectl
        anchor = self._processes.running(_ANCHOR)
        assert anchor is not None  # noqa: S101
        stopped = [name for name in components.COMPONENTS if self._processes.running(name) is None]
        if not stopped and self.status().ready and addons.jobset_answers(kubectl):
            self._progress.say(f"Cluster {self.paths.name} is up already ({addresses.api_url})")
            return
        with self._progress.step("Starting etcd, the API server and containerd"):
            for name in ("etcd", "kube-apiserver", "containerd"):
                self._ensure(name, anchor.pid, addresses)
            self._await("containerd", self.ctr.answers)
            self._load_own_images()
            self._await("kube-apiserver", kubectl.api_ready)
        with self._progress.step("Starting controllers, scheduler, kubelet and kube-proxy"):
            since = datetime.now(UTC) if "kubelet" in stopped else datetime.min.replace(tzinfo=UTC)
            for name in components.COMPONENTS:
                self._ensure(name, anchor.pid, addresses)
            kubectl.apply(addons.coredns(addresses, facts.coredns_image))
            values = addons.jobset_values(facts.jobset_image)
            chart = self._binaries.folder(programs.JOBSET) / "charts" / "jobset"
            addons.install_jobset(
                self.paths.tools / "helm", self.kubeconfig, chart, values, self.paths.logs / "helm.log"
            )
            self._await("kubelet", lambda: kubectl.node_ready(self.paths.name, since))
        with self._progress.step("Waiting for CoreDNS and JobSet"):
            addons.wait_for_dns(kubectl)
            addons.wait_for_jobset(kubectl)

    def _ensure(self, name: str, anchor: int, addresses: Addresses) -> None:
        if self._processes.running(name) is not None:
            return
        if name == "containerd":
            self._containerd_dirty.parent.mkdir(parents=True, exist_ok=True)
            self._containerd_dirty.touch()
        system = _SYSTEM_PROGRAMS.get(name)
        program = Path(system) if system else self._binaries.path(programs.KUBERNETES, name)
        command = components.command(name, program, self.paths, addresses)
        self._processes.start(
            name, enter(anchor, command), self._group.members_file, components.environment(os.environ)
        )

    def _await(self, name: str, condition: Callable[[], bool]) -> None:
        """Wait for a condition that depends on component `name`.

        Raises:
            DevclusterError: the component ended, or the condition is not true in time.
        """

        def settled() -> bool:
            return condition() or self._processes.running(name) is None

        log = self.paths.logs / f"{name}.log"
        until(settled, timeout_seconds=90, failure=lambda: f"{name} does not become ready: see {log}.")
        if self._processes.running(name) is None:
            raise DevclusterError(f"{name} ended: the last line of its log is {last_line(log)!r}, see {log}.")

    def _load_own_images(self) -> None:
        present = self.ctr.image_ids()
        for image in _OWN_IMAGES:
            name, archive = own_images.make(image, self._binaries, self.paths.images)
            if name not in present:
                load_archive(self.ctr, archive, self._progress)

    # Removing

    def _clean(self) -> None:
        """Remove everything except image content; works in every state of the cluster."""
        worker = worker_group(self.paths)
        worker.kill()
        worker.remove()
        for name in reversed(components.COMPONENTS):
            if name != "containerd":
                self._processes.stop(name, force=True)
        if self._processes.running("containerd") and self.ctr.answers():
            self.ctr.remove_all_containers()
            self._processes.stop("containerd")
            self._containerd_dirty.unlink(missing_ok=True)
        self._group.kill()
        remove_link(Addresses(self.paths.name, IPv4Network("10.0.0.0/16")).host_link)
        self._group.remove()
        if self.paths.state.is_dir():
            for path in self.paths.state.iterdir():
                if path != self.paths.containerd:
                    delete(path)
        self._clean_containerd()

    def _clean_containerd(self) -> None:
        """Remove containerd's files except image content; all of them if it did not end cleanly, because its records
        are then wrong.
        """
        root = self.paths.containerd / "root"
        if self._containerd_dirty.exists():
            delete(self.paths.containerd)
            return
        delete(self.paths.containerd / "run")
        for plugin in ("io.containerd.grpc.v1.cri", "io.containerd.runtime.v2.task"):
            delete(root / plugin)

    def _facts(self) -> _Facts | None:
        try:
            return _Facts(**json.loads(self._marker.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None


_OWN_IMAGES = (own_images.PAUSE, own_images.COREDNS, own_images.JOBSET)


def _known(name: str) -> str:
    if name not in components.COMPONENTS:
        raise DevclusterError(f"There is no component {name!r}: it is one of {', '.join(components.COMPONENTS)}.")
    return name


def routed_networks() -> list[IPv4Network]:
    """Return the networks that the host has routes to, without the default route."""
    return parse_routes(run(["ip", "-json", "-4", "route", "show", "table", "all"]))
