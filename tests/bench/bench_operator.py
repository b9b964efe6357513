"""The costs of the operator: memory and processor while it is idle, and the time of one decision.

    python tests/bench/bench_operator.py

Runs the operator on the development cluster (which must be up), first without runs, then with twenty suspended runs.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from halcyon_api.generate.crd import custom_resource_definition
from halcyon_devcluster import Cluster, DevclusterError, open_cluster
from halcyon_devcluster.waiting import until
from halcyon_operator.decide.reconcile import reconcile
from halcyon_operator.model.settings import VARIABLE

sys.path.append(str(Path(__file__).parents[2]))
from tests.bench.fleet import NO_STORE
from tests.cluster.operators import stores
from tests.operator.builders import at, head, jobset, observed, pod, report, run
from tests.ports import free_port

SECONDS = 30
RUNS = 20


def decision_seconds() -> float:
    """Processor seconds of one decision about a run that trains."""
    first = reconcile(observed(run()), at(0)).status
    assert first is not None
    document = run(first.document())
    rounds = 200
    started = time.process_time()
    for number in range(rounds):
        reconcile(
            observed(
                document, jobsets=[jobset()], pods=[pod(), pod(1, 0, 1)], head=head(10), report=report(step=number + 1)
            ),
            at(number),
        )
    return (time.process_time() - started) / rounds


@contextmanager
def operator(cluster: Cluster, namespace: str, port: int) -> Iterator[int]:
    """The operator's process id; starts the operator and waits until its metrics port listens."""
    settings = {
        "trainerImage": "none",
        "namespaces": [namespace],
        "metrics": {"port": port},
        "objectStore": stores(NO_STORE),
    }
    environment = os.environ | {"KUBECONFIG": str(cluster.kubeconfig), VARIABLE: json.dumps(settings)}
    command = [sys.executable, "-m", "halcyon_operator"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            until(lambda: listening(port), timeout_seconds=60, failure=lambda: "the operator does not start")
            yield process.pid
        finally:
            process.terminate()


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def used(pid: int) -> tuple[float, float]:
    """Processor seconds and resident MiB of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK"), int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def idle(pid: int, what: str) -> None:
    before, _ = used(pid)
    time.sleep(SECONDS)  # the idle time that is measured
    after, resident = used(pid)
    print(f"{what:24} {resident:6.0f} MiB  {100 * (after - before) / SECONDS:5.2f} % of a core")


def main() -> None:
    print(f"one decision             {1e3 * decision_seconds():6.2f} ms")
    cluster = open_cluster()
    if not cluster.status().ready:
        raise SystemExit("The development cluster is not up; run: python -m halcyon_devcluster up")
    namespace = f"bench-{secrets.token_hex(3)}"
    port = free_port()
    cluster.kubectl.apply(
        [custom_resource_definition(), {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}]
    )
    try:
        with operator(cluster, namespace, port) as pid:
            idle(pid, "no runs")
            documents = [run(name=f"idle-{number}", suspend=True) for number in range(RUNS)]
            for document in documents:
                document["metadata"] = {"name": document["metadata"]["name"], "namespace": namespace}
            cluster.kubectl.apply(documents)
            until(
                lambda: suspended(cluster, namespace) == RUNS,
                timeout_seconds=120,
                failure=lambda: "not all runs are suspended",
            )
            idle(pid, f"{RUNS} suspended runs")
    finally:
        try:
            cluster.kubectl("delete", "namespace", namespace, "--wait=false")
        except DevclusterError as why:
            print(why, file=sys.stderr)


def suspended(cluster: Cluster, namespace: str) -> int:
    phases = cluster.kubectl(
        "get", "trainingruns", "--namespace", namespace, "--output=jsonpath={.items[*].status.phase}"
    )
    return phases.split().count("Suspended")


if __name__ == "__main__":
    main()
