"""The promises of the development cluster, tested in the running cluster.

All other tests on the cluster use most of them, so the tests of single promises are among the further cases only.
"""

import io
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from halcyon_devcluster import DevclusterError, forwarded, open_cluster
from halcyon_devcluster.commands import run
from halcyon_devcluster.engine import Backend
from halcyon_devcluster.images import build_image
from halcyon_devcluster.progress import QUIET, ConsoleProgress
from halcyon_devcluster.waiting import until
from tests.cluster.conftest import DevCluster
from tests.cluster.workloads import ending, pod, pod_spec, wait_for_log, wait_for_phase
from tests.suite.limits import limit

pytestmark = pytest.mark.cluster

SERVER = """
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"hello from {os.environ['HOSTNAME']}{self.path}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(("", 8000), Handler).serve_forever()
"""
FIND_COORDINATOR = """
import os, socket, time
coordinator = f"pair-slice-0-0.pair.{os.environ['SPACE']}.svc.cluster.local"
if os.environ["HOSTNAME"].startswith("pair-slice-0-0"):
    server = socket.create_server(("", 9000))
    peers = [server.accept()[0] for _ in range(3)]
    print("met", len(peers))
else:
    while True:
        try:
            socket.create_connection((coordinator, 9000), timeout=5)
            break
        except OSError:
            time.sleep(0.2)
"""
WAIT_FOR_SIGTERM = """
import signal, sys, threading
left = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: left.set())
print("ready")
left.wait()
threading.Event().wait(3)  # a save that takes its time
sys.exit(42)
"""


def test_a_second_up_changes_nothing(devcluster: DevCluster):
    output = io.StringIO()
    before = devcluster.cluster.status()
    open_cluster(progress=ConsoleProgress(Console(file=output, width=200))).up()
    assert before.ready
    assert devcluster.cluster.status() == before
    assert "is up already" in output.getvalue()


@pytest.mark.variant
def test_a_jobset_of_two_by_two_finds_its_coordinator_by_name(
    devcluster: DevCluster, namespace: str, python_image: str
):
    spec = pod_spec(python_image, FIND_COORDINATOR)
    spec["containers"][0]["env"] = [{"name": "SPACE", "value": namespace}]
    job = {
        "parallelism": 2,
        "completions": 2,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "template": {"spec": spec},
    }
    jobset = {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": "pair", "namespace": namespace},
        "spec": {"replicatedJobs": [{"name": "slice", "replicas": 2, "template": {"spec": job}}]},
    }
    devcluster.kubectl.apply([jobset])
    devcluster.kubectl(
        "wait", "--for=condition=Completed", "jobset/pair", "--namespace", namespace, f"--timeout={limit(90)}s"
    )


@pytest.mark.variant
def test_a_name_outside_the_cluster_is_unknown_not_a_failure(devcluster: DevCluster, namespace: str, python_image: str):
    program = """
import socket
try:
    socket.getaddrinfo("nowhere.example", 80)
except socket.gaierror as error:
    raise SystemExit(0 if error.errno in (socket.EAI_NONAME, socket.EAI_NODATA) else f"{error}")
"""
    if devcluster.cluster.backend is Backend.KIND:
        pytest.skip("kind's CoreDNS asks the host's resolver, whatever that answers")
    devcluster.kubectl.apply([pod("resolver", pod_spec(python_image, program))], "--namespace", namespace)
    wait_for_phase(devcluster.kubectl, namespace, "resolver", "Succeeded", "Failed")
    assert ending(devcluster.kubectl, namespace, "resolver")["exitCode"] == 0


@pytest.mark.variant
def test_pods_are_reached_by_service_by_proxy_and_by_forwarding(
    devcluster: DevCluster, namespace: str, python_image: str
):
    kubectl = devcluster.kubectl
    ready = {"readinessProbe": {"httpGet": {"port": 8000}, "periodSeconds": 1}}
    server, client = (
        pod_spec(python_image, SERVER),
        "import urllib.request as r; print(r.urlopen('http://server:80/x').read())",
    )
    server["containers"][0] |= ready
    service: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "server"},
        "spec": {"selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": 8000}]},
    }
    kubectl.apply([pod("server", server), service], "--namespace", namespace)
    kubectl("wait", "--for=condition=Ready", "pod/server", "--namespace", namespace, f"--timeout={limit(90)}s")
    kubectl.apply([pod("client", pod_spec(python_image, client))], "--namespace", namespace)
    wait_for_log(kubectl, namespace, "client", "hello from server/x")
    assert kubectl.pod_http(namespace, "server", 8000, "/metrics") == "hello from server/metrics"
    with forwarded(kubectl, namespace, "service/server", 80) as url:
        assert httpx.get(f"{url}/f").text == "hello from server/f"
    if devcluster.cluster.backend is Backend.NATIVE:
        address = kubectl("get", "pod", "server", "--namespace", namespace, "--output=jsonpath={.status.podIP}")
        assert httpx.get(f"http://{address}:8000/direct").text == "hello from server/direct"


def test_forwarding_to_a_missing_pod_is_reported(devcluster: DevCluster, namespace: str):
    with (
        pytest.raises(DevclusterError, match="cannot be forwarded"),
        forwarded(devcluster.kubectl, namespace, "pod/nobody", 80),
    ):
        pass


@pytest.mark.variant
def test_a_built_image_is_loaded_once_and_runs_restricted(
    devcluster: DevCluster, namespace: str, python_image: str, tmp_path: Path
):
    """The whole way: Dockerfile, build, load, pod. A second load must not copy the image again."""
    (tmp_path / "Dockerfile").write_text(f"FROM {python_image}\nCOPY greeting /greeting\nRUN chmod 444 /greeting\n")
    (tmp_path / "greeting").write_text(f"greetings {namespace}")
    paths = devcluster.cluster.paths
    tag = build_image(
        tmp_path / "Dockerfile",
        tmp_path,
        f"localhost/halcyon/greeting:{namespace}",
        {},
        cache=paths.cache,
        progress=QUIET,
    )
    output = io.StringIO()
    cluster = open_cluster(progress=ConsoleProgress(Console(file=output, width=200)))
    assert cluster.load(tag) == tag
    assert "Loading" in output.getvalue()
    assert cluster.load(tag) == tag
    assert "on the node already" in output.getvalue()
    devcluster.kubectl.apply(
        [pod("greeting", pod_spec(tag, "print(open('/greeting').read())"))], "--namespace", namespace
    )
    wait_for_log(devcluster.kubectl, namespace, "greeting", f"greetings {namespace}")
    cluster.ctr("images", "rm", tag)
    run(["docker", "rmi", tag] if cluster.backend is Backend.KIND else ["buildah", "rmi", tag])


def test_loading_a_missing_image_is_reported(devcluster: DevCluster):
    with pytest.raises(DevclusterError, match="build"):
        devcluster.load("localhost/halcyon/nothing:here")
    with pytest.raises(DevclusterError, match="does not exist"):
        devcluster.load("/nowhere/image.tar")


@pytest.mark.variant
def test_eviction_sends_sigterm_and_leaves_time_to_save(devcluster: DevCluster, namespace: str, python_image: str):
    kubectl = devcluster.kubectl
    spec = pod_spec(python_image, WAIT_FOR_SIGTERM, terminationGracePeriodSeconds=30)
    # A finalizer keeps the pod's last status readable.
    victim = pod("victim", spec)
    victim["metadata"]["finalizers"] = ["halcyon.dev/test"]
    kubectl.apply([victim], "--namespace", namespace)
    wait_for_log(kubectl, namespace, "victim", "ready")
    devcluster.faults.evict(namespace, "victim")
    wait_for_phase(kubectl, namespace, "victim", "Failed")
    assert ending(kubectl, namespace, "victim")["exitCode"] == 42
    conditions = json.loads(kubectl("get", "pod", "victim", "--namespace", namespace, "--output=json"))["status"][
        "conditions"
    ]
    assert {"DisruptionTarget": "EvictionByEvictionAPI"}.items() <= {
        c["type"]: c.get("reason") for c in conditions
    }.items()
    kubectl(
        "patch",
        "pod",
        "victim",
        "--namespace",
        namespace,
        "--type=json",
        '--patch=[{"op":"remove","path":"/metadata/finalizers"}]',
    )


@pytest.mark.variant
def test_a_killed_container_ends_by_sigkill(devcluster: DevCluster, namespace: str, python_image: str):
    kubectl = devcluster.kubectl
    kubectl.apply([pod("victim", pod_spec(python_image, WAIT_FOR_SIGTERM))], "--namespace", namespace)
    wait_for_log(kubectl, namespace, "victim", "ready")
    devcluster.faults.kill_container(namespace, "victim")
    wait_for_phase(kubectl, namespace, "victim", "Failed")
    assert ending(kubectl, namespace, "victim")["exitCode"] == 137
    with pytest.raises(DevclusterError, match="0 running containers"):
        devcluster.faults.kill_container(namespace, "victim")


@pytest.mark.variant
def test_a_missing_image_is_reported_by_the_kubelet(devcluster: DevCluster, namespace: str, python_image: str):
    spec = pod_spec("registry.invalid/nothing:here", "pass")
    spec["containers"][0]["imagePullPolicy"] = "IfNotPresent"
    devcluster.kubectl.apply([pod("stuck", spec)], "--namespace", namespace)
    path = "--output=jsonpath={.status.containerStatuses[0].state.waiting.reason}"
    until(
        lambda: (
            devcluster.kubectl("get", "pod", "stuck", "--namespace", namespace, path)
            in ("ErrImagePull", "ImagePullBackOff")
        ),
        timeout_seconds=90,
        failure=lambda: devcluster.kubectl("describe", "pod", "stuck", "--namespace", namespace),
    )


def test_an_unrestricted_pod_is_refused(devcluster: DevCluster, namespace: str, python_image: str):
    spec = {"containers": [{"name": "root", "image": python_image}]}
    with pytest.raises(DevclusterError, match="violates PodSecurity"):
        devcluster.kubectl.apply([pod("root", spec)], "--namespace", namespace)
