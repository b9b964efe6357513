"""The pool with the real controller of agent-sandbox: its warm pool gives the sandboxes, and it deletes what a killed
command has left.

There is no node. The pods of the controller are bound to the node without containers, and the test reports them as
ready.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from halcyon.evals.sandbox import pool
from halcyon.evals.sandbox.cluster import Cluster
from halcyon.evals.sandbox.pool import SandboxPool
from halcyon.evals.sandbox.running import Limits, Program, Unavailable
from halcyon_devcluster.binaries import Binaries
from halcyon_devcluster.control_plane import ControlPlane
from halcyon_devcluster.programs import AGENT_SANDBOX
from halcyon_devcluster.waiting import until
from tests.apiserver import sandboxes
from tests.apiserver.api import Api
from tests.apiserver.kubelet import NODE, Kubelet
from tests.apiserver.sandboxes import GROUP, POOL, VERSION, Account
from tests.suite.limits import limit

pytestmark = [pytest.mark.slow, pytest.mark.variant, pytest.mark.timeout(1800)]

LIMITS = Limits(seconds=limit(20))
FLAGS = (
    "--extensions",
    "--enable-webhook=false",
    "--leader-elect=false",
    "--metrics-bind-address=0",
    "--health-probe-bind-address=0",
)


@pytest.fixture(scope="module")
def controller(
    agent_sandbox: None, api_server: ControlPlane, binaries: Binaries, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """The controller, and the one that deletes what belongs to a deleted object."""
    program, log = (
        binaries.path(AGENT_SANDBOX, "agent-sandbox-controller"),
        tmp_path_factory.mktemp("agent-sandbox") / "log",
    )
    environment = os.environ | {"KUBECONFIG": str(api_server.kubeconfig)}
    with log.open("wb") as sink, api_server.controllers("garbage-collector-controller"):
        process = subprocess.Popen(
            [program, *FLAGS], env=environment, stdout=sink, stderr=sink, stdin=subprocess.DEVNULL
        )
        try:
            yield
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def account(
    api_server: ControlPlane,
    kubelet: Kubelet,
    controller: None,
    make_namespace: Callable[[], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Account:
    """The objects of the example, with pods on the node without containers and a pool of one."""
    places = make_namespace(), make_namespace()
    found = sandboxes.example(*places)
    for one in found:
        if one["kind"] == "SandboxTemplate":
            one["spec"]["podTemplate"]["spec"]["nodeName"] = NODE
        if one["kind"] == "SandboxWarmPool":
            one["spec"]["replicas"] = 1
    return sandboxes.apply(found, *places, api_server, tmp_path / "kubeconfig", monkeypatch)


def pods(api: Api, namespace: str) -> list[str]:
    return api.names(f"/api/v1/namespaces/{namespace}/pods")


def make_ready(api: Api, namespace: str) -> None:
    """Report every pod as ready, as its kubelet does."""
    states = [{"type": kind, "status": "True"} for kind in ("Ready", "PodScheduled")]
    status = {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}], "conditions": states}
    for name in pods(api, namespace):
        named = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}}
        api.patch(named, {"status": status}, namespace, subresource="status")


def await_ready(api: Api, namespace: str) -> str:
    """Wait for the sandbox of the warm pool, and return the name of its pod."""
    until(lambda: bool(pods(api, namespace)), timeout_seconds=60, failure=lambda: "the warm pool makes no pod")
    make_ready(api, namespace)
    named = {"apiVersion": f"{GROUP}/{VERSION}", "kind": "SandboxWarmPool", "metadata": {"name": POOL}}

    def status() -> dict[str, Any]:
        return api.get(named, namespace).get("status", {})

    until(lambda: status().get("readyReplicas") == 1, timeout_seconds=60, failure=lambda: str(status()))
    (pod,) = pods(api, namespace)
    return pod


def test_a_program_runs_in_a_sandbox_of_the_warm_pool(api: Api, account: Account, kubelet: Kubelet) -> None:
    pod = await_ready(api, account.sandboxes)
    ran = SandboxPool(POOL, cluster=Cluster(account.sandboxes)).run(Program("print('in a pod')", "assert True"), LIMITS)
    assert (ran.outcome, ran.output) == ("passed", "in a pod\n")
    assert kubelet.pods[-1] == pod, "the pod was there before the claim"
    until(
        lambda: account.claims(api) == [], timeout_seconds=30, failure=lambda: f"{account.claims(api)} are not deleted"
    )
    ended = f"/apis/agents.x-k8s.io/{VERSION}/namespaces/{account.sandboxes}/sandboxes/{pod}"
    until(
        lambda: not api.answers(ended),
        timeout_seconds=60,
        failure=lambda: f"the sandbox {pod} is not deleted with its claim",
    )


def test_the_controllers_reason_is_in_the_error(api: Api, account: Account) -> None:
    await_ready(api, account.sandboxes)
    cluster = Cluster(account.sandboxes)
    with pytest.raises(Unavailable, match=r'gives no sandbox: WarmPoolNotFound \(SandboxWarmPool "other" not found\)'):
        SandboxPool("other", cluster=cluster).run(Program("print()"), LIMITS)
    assert account.claims(api) == []


def test_the_claim_of_a_killed_command_is_deleted(api: Api, account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    await_ready(api, account.sandboxes)
    cluster = Cluster(account.sandboxes)
    monkeypatch.setattr(cluster, "delete_claim", lambda name: None)  # as a killed command
    # The claim ends as soon as it is created.
    monkeypatch.setattr(pool, "_SPARE", timedelta(seconds=-pool.WAIT_SECONDS - pool.START_SECONDS - LIMITS.seconds))
    with pytest.raises(Unavailable, match="gives no sandbox"):
        SandboxPool(POOL, cluster=cluster).run(Program("print()"), LIMITS)
    until(
        lambda: account.claims(api) == [], timeout_seconds=60, failure=lambda: f"{account.claims(api)} are not deleted"
    )
