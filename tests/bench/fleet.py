"""Thousands of runs on one machine: nodes and pods are fakes of kwok; API server, scheduler, Job and JobSet controllers
are real.

A fake pod runs at once and forever. If it is evicted or deleted, it ends with exit code 42, as a trainer that saved
does, so that JobSet restarts its run's process group. Fake pods do not answer requests for their progress.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from kubernetes.aio import config as kubernetes_config
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration

from halcyon_api.generate.crd import custom_resource_definition
from halcyon_devcluster import Cluster, open_cluster
from halcyon_devcluster.binaries import Binaries
from halcyon_devcluster.paths import DEFAULT_NAME
from halcyon_devcluster.programs import KWOK
from halcyon_devcluster.progress import QUIET
from halcyon_operator.kube.client import KubernetesApi, path_of
from halcyon_operator.run.metrics import Metrics
from tests.families import SMALL

PODS_A_RUN = 5
NO_STORE = "http://127.0.0.1:9"
"""An endpoint where nothing listens."""
NODES = 20
NODE_LABEL = "halcyon.dev/fake"
POD_NETWORK = "10.213.0.0/16"
RUNS_API = ("halcyon.dev/v1alpha1", "trainingruns")
JOBSETS_API = ("jobset.x-k8s.io/v1alpha2", "jobsets")
MERGE = "application/merge-patch+json"

_ENDED = """
{{ $now := Now }}
phase: Failed
containerStatuses:
{{ range .spec.containers }}
- image: {{ .image | Quote }}
  name: {{ .name | Quote }}
  ready: false
  restartCount: 0
  state:
    terminated:
      exitCode: 42
      reason: Error
      startedAt: {{ $now | Quote }}
      finishedAt: {{ $now | Quote }}
{{ end }}
"""


def _stage(name: str, phases: list[str], then: dict[str, Any]) -> dict[str, Any]:
    """The kwok stage of a pod that is being deleted, by phase."""
    deleting = {"key": ".metadata.deletionTimestamp", "operator": "Exists"}
    spec = {
        "resourceRef": {"apiGroup": "v1", "kind": "Pod"},
        "selector": {"matchExpressions": [deleting, {"key": ".status.phase", "operator": "In", "values": phases}]},
        "next": then,
    }
    return {"apiVersion": "kwok.x-k8s.io/v1alpha1", "kind": "Stage", "metadata": {"name": name}, "spec": spec}


@contextmanager
def fake_nodes(cluster: Cluster, folder: Path) -> Iterator[None]:
    """Nodes that accept any number of pods; the real node is cordoned meanwhile."""
    program = Binaries(cluster.paths.cache, QUIET).path(KWOK, "kwok")
    kept = program.parent / "kustomize" / "stage"
    own = [
        _stage("pod-end", ["Running", "Pending"], {"statusTemplate": _ENDED}),
        _stage("pod-gone", ["Failed", "Succeeded"], {"delete": True}),
    ]
    stages = folder / "stages.yaml"
    given = ("node/fast/node-initialize", "node/heartbeat-with-lease/node-heartbeat-with-lease", "pod/fast/pod-ready")
    stages.write_text(
        "---\n".join([*((kept / f"{name}.yaml").read_text() for name in given), *map(yaml.safe_dump, own)])
    )
    real = cluster.kubectl("get", "nodes", "--output=name").split()[0]
    names = [f"fake-{number}" for number in range(NODES)]
    cluster.kubectl.apply(
        [
            {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {NODE_LABEL: "yes"}}}
            for name in names
        ]
    )
    cluster.kubectl("cordon", real)
    flags = [
        "--kubeconfig",
        cluster.kubeconfig,
        "--config",
        stages,
        "--cidr",
        POD_NETWORK,
        "--node-lease-duration-seconds",
        "40",
    ]
    with (folder / "kwok.log").open("wb") as log:
        command = [program, *flags, f"--manage-nodes-with-label-selector={NODE_LABEL}=yes"]
        process = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        cluster.kubectl("wait", "--for=condition=Ready", "node", f"--selector={NODE_LABEL}=yes", "--timeout=60s")
        yield
    finally:
        process.terminate()
        process.wait()
        cluster.kubectl("uncordon", real)
        cluster.kubectl("delete", "nodes", f"--selector={NODE_LABEL}=yes", "--wait=false")


@contextmanager
def bench_cluster(options: argparse.Namespace, prefix: str) -> Iterator[tuple[Cluster, Path]]:
    """A development cluster with fake nodes and the CRD, and a folder for logs.

    Afterwards the cluster is as it was before.
    """
    cluster = open_cluster(options.cluster)
    was_up = cluster.status().ready
    cluster.up()
    try:
        if not cluster.paths.audit_log.exists():
            raise SystemExit(
                "The API server of this cluster keeps no audit log: take the cluster down, so that this program starts "
                "one without Docker."
            )
        folder = options.folder or Path(tempfile.mkdtemp(prefix=prefix))
        folder.mkdir(parents=True, exist_ok=True)
        cluster.kubectl.apply([custom_resource_definition()])
        with fake_nodes(cluster, folder):
            yield cluster, folder
    finally:
        if not was_up:
            cluster.down()


def cluster_options(arguments: argparse.ArgumentParser) -> None:
    """Add the options for the cluster, the folder of logs, and the page for the figures."""
    arguments.add_argument("--cluster", default=DEFAULT_NAME, help="name of the development cluster")
    arguments.add_argument("--folder", type=Path, help="folder for logs")
    arguments.add_argument("--page", type=Path, help="page; the figures are written between its marks")


def run_document(
    name: str, namespace: str, *, hosts: int = PODS_A_RUN, slices: int = 1, endpoint: str = NO_STORE, **spec: Any
) -> dict[str, Any]:
    """A run with `hosts` pods a slice, whose checkpoint root does not answer."""
    return {
        "apiVersion": RUNS_API[0],
        "kind": "TrainingRun",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "accelerator": {"type": "cpu", "topology": f"{hosts}x1", "slices": slices},
            "model": {**SMALL},
            "data": {"sources": [{"name": "python", "stdlib": {}}]},
            "trainer": {"steps": 1000, "batchSize": 2 * hosts * slices, "sequenceLength": 64},
            "checkpoint": {"root": f"s3://nowhere/{name}", "endpoint": endpoint},
            **spec,
        },
    }


@dataclass
class Fleet:
    """The runs of one namespace, reached over one connection."""

    api: KubernetesApi
    namespace: str

    async def apply(self, name: str, **form: Any) -> None:
        await self.api.request(
            "POST", path_of(*RUNS_API, self.namespace), "trainingruns", body=run_document(name, self.namespace, **form)
        )

    async def apply_all(self, names: list[str], **form: Any) -> None:
        """Make many runs, at most 8 at the same time."""
        waiting = asyncio.Semaphore(8)

        async def one(name: str) -> None:
            async with waiting:
                await self.apply(name, **form)

        await asyncio.gather(*map(one, names))

    async def edit(self, name: str, **spec: Any) -> None:
        path = path_of(*RUNS_API, self.namespace, name)
        await self.api.request("PATCH", path, "trainingruns", body={"spec": spec}, content_type=MERGE)

    async def delete(self, api_version: str, plural: str, name: str) -> None:
        options = {"propagationPolicy": "Background"}
        await self.api.request("DELETE", path_of(api_version, plural, self.namespace, name), plural, body=options)

    async def evict(self, pod: str) -> None:
        """Evict a pod through the Eviction API."""
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": self.namespace}}
        await self.api.request("POST", path_of("v1", "pods", self.namespace, pod, "eviction"), "pods", body=body)

    async def listed(self, api_version: str, plural: str, selector: str = "") -> list[dict[str, Any]]:
        """All objects of a kind."""
        query = {"limit": "500"} | ({"labelSelector": selector} if selector else {})
        found: list[dict[str, Any]] = []
        while True:
            page = await self.api.request("GET", path_of(api_version, plural, self.namespace), plural, query=query)
            found += page["items"]
            if not (token := page["metadata"].get("continue")):
                return found
            query["continue"] = token

    async def statuses(self) -> dict[str, dict[str, Any]]:
        """The status of every run."""
        return {run["metadata"]["name"]: run.get("status", {}) for run in await self.listed(*RUNS_API)}

    async def running_pods(self) -> dict[str, list[dict[str, Any]]]:
        """The pods of every run that are running and not being deleted."""
        found: dict[str, list[dict[str, Any]]] = {}
        for pod in await self.listed("v1", "pods", "halcyon.dev/run"):
            if pod.get("status", {}).get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]:
                found.setdefault(pod["metadata"]["labels"]["halcyon.dev/run"], []).append(pod)
        return found


@asynccontextmanager
async def fleet(cluster: Cluster, namespace: str) -> AsyncIterator[Fleet]:
    """The runs of a new namespace."""
    cluster.kubectl.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}])
    configuration = Configuration()
    loader: Any = kubernetes_config
    await loader.load_kube_config(config_file=str(cluster.kubeconfig), client_configuration=configuration)
    api = KubernetesApi(ApiClient(configuration), Metrics().api_requests, "halcyon-bench")
    try:
        yield Fleet(api, namespace)
    finally:
        await api.close()
        # Remaining pods are garbage-collected when the fake nodes are deleted.
        cluster.kubectl("delete", "namespace", namespace, "--wait=false")


async def until_async(condition: Any, seconds: float, what: str, pause: float = 1.0) -> None:
    """Wait until a condition holds that asks the API server.

    Raises:
        TimeoutError: It did not hold within `seconds`.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not await condition():
        if loop.time() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        await asyncio.sleep(pause)


def dump(document: object) -> str:
    """A document as indented JSON, cut to 4000 characters, for error output."""
    return json.dumps(document, indent=1)[:4000]
