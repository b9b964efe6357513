"""A run that MultiKueue sends to another cluster: applied in one development cluster, trained in a second one.

The clusters reach only the host, so Kueue's connection to the second one leads through a relay on the host.
"""

import contextlib
import json
import re
import secrets
import socket
import threading
from collections.abc import Iterator
from ipaddress import IPv4Network
from typing import Any

import pytest

from halcyon_devcluster import Faults, open_cluster
from halcyon_devcluster.addresses import API_PORT, Addresses
from halcyon_devcluster.audit import AuditLog
from halcyon_devcluster.engine import Backend
from halcyon_devcluster.images import Buildable, build
from halcyon_devcluster.kueue import GROUP, KUEUE, kueue
from halcyon_devcluster.waiting import until
from tests.cluster.conftest import PROGRESS, DevCluster
from tests.cluster.scripted import RESTRICTED, Runs, installed
from tests.cluster.test_queues import ONE_HOST, delete, queue_objects, queued

pytestmark = [pytest.mark.cluster, pytest.mark.variant, pytest.mark.alone, pytest.mark.timeout(900)]

FRAMEWORKS = {"externalFrameworks": [{"name": "TrainingRun.v1alpha1.halcyon.dev"}]}


def addresses(devcluster: DevCluster) -> Addresses:
    facts = json.loads((devcluster.cluster.paths.state / "cluster.json").read_text())
    return Addresses(devcluster.cluster.paths.name, IPv4Network(facts["block"]))


@contextlib.contextmanager
def relay(listen: str, target: str) -> Iterator[int]:
    """Forward connections to a port of an address of the host. Yields the port."""

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                ends = [server.accept()[0], socket.create_connection((target, API_PORT))]
                for pair in (ends, ends[::-1]):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

    with socket.create_server((listen, 0)) as server:
        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]


@pytest.fixture(scope="module")
def worker() -> Iterator[DevCluster]:
    """A second cluster."""
    cluster = open_cluster("worker", progress=PROGRESS)
    if cluster.backend is not Backend.NATIVE:
        pytest.skip("kind clusters have another network")
    cluster.up()
    yield DevCluster(cluster, Faults(cluster), AuditLog(cluster.paths.audit_log))
    cluster.down()


def sending(devcluster: DevCluster, worker: DevCluster, port: int) -> list[dict[str, Any]]:
    """The objects with which Kueue in one cluster sends to the other."""
    here, there = addresses(devcluster).host, addresses(worker).node
    config = re.sub(
        r"server: .*", f"server: https://{here}:{port}\n    tls-server-name: {there}", worker.kubeconfig.read_text()
    )
    version = f"{GROUP}/v1beta2"
    named = {"name": "worker"}
    return [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": named | {"namespace": KUEUE.namespace},
            "stringData": {"kubeconfig": config},
        },
        {
            "apiVersion": version,
            "kind": "MultiKueueCluster",
            "metadata": named,
            "spec": {"clusterSource": {"kubeConfig": {"location": "worker", "locationType": "Secret"}}},
        },
        {"apiVersion": version, "kind": "MultiKueueConfig", "metadata": named, "spec": {"clusters": ["worker"]}},
        {
            "apiVersion": version,
            "kind": "AdmissionCheck",
            "metadata": named,
            "spec": {
                "controllerName": "kueue.x-k8s.io/multikueue",
                "parameters": {"apiGroup": GROUP, "kind": "MultiKueueConfig", "name": "worker"},
            },
        },
    ]


@pytest.fixture(scope="module")
def both(devcluster: DevCluster, worker: DevCluster, python_image: str) -> Iterator[tuple[Runs, Runs]]:
    """The same namespace in both clusters, each with Kueue, the guide's queue and an operator."""
    name = f"runs-{secrets.token_hex(4)}"
    here, there = Runs(devcluster, name), Runs(worker, name)
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}}
    image = worker.load(build(Buildable.BASE, cache=worker.cluster.paths.cache, progress=PROGRESS))
    with contextlib.ExitStack() as stack:
        for runs, config in ((here, {"multiKueue": FRAMEWORKS | {"gcInterval": "5s"}}), (there, {})):
            runs.devcluster.kubectl.apply([namespace])
            stack.enter_context(installed(runs.devcluster, image, name))
            stack.enter_context(kueue(runs.devcluster.cluster, PROGRESS, **config))
        port = stack.enter_context(relay(str(addresses(devcluster).host), str(addresses(worker).node)))
        queues = queue_objects(name)
        there.devcluster.kubectl.apply(queues)
        queues[1]["spec"]["admissionChecksStrategy"] = {"admissionChecks": [{"name": "worker"}]}
        here.devcluster.kubectl.apply([*sending(devcluster, worker, port), *queues])
        yield here, there
        delete(here, "--all")


def test_a_run_trains_in_the_other_cluster_and_shows_its_status_here(both: tuple[Runs, Runs]) -> None:
    here, there = both
    sent = {"accelerator": ONE_HOST, "scheduling": queued(), "managedBy": "kueue.x-k8s.io/multikueue"}
    here.apply("far", "rate=10", **sent)
    status = here.training("far")
    assert (status["attempt"], here.names("jobset,pod", "far")) == (1, [])
    assert there.names("jobset", "far") == ["jobset.jobset.x-k8s.io/far-1"]
    first = there.get("far")["metadata"]["uid"]
    assert "managedBy" not in there.get("far")["spec"]
    # An edit is a new run there, which waits until the processes of the former one have saved.
    here.patch("far", trainer={"logEverySteps": 7})
    here.wait("far", "training with the edit", lambda now: now.get("inForce", {}).get("trainer.logEverySteps") == "7")
    here.training("far")
    assert there.get("far")["metadata"]["uid"] != first
    here.patch("far", suspend=True)
    here.in_phase("far", "Suspended")
    until(
        lambda: there.api.items("trainingrun", there.namespace) == [] and there.pods("far") == [],
        timeout_seconds=60,
        failure=lambda: f"the run still trains: {there.pods('far')}",
    )
