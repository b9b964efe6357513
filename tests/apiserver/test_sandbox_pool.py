"""Programs in sandboxes of a pool, against a real API server with the kinds of agent-sandbox and the rights of the
example.

The API server has no node and no controller: a test answers the claims, and `kubelet` runs the commands as processes of
this machine.
"""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.config import kube_config
from typer.testing import CliRunner

from halcyon.commands.main import app
from halcyon.errors import BadConfiguration
from halcyon.evals.sandbox import cluster, pool
from halcyon.evals.sandbox.pool import SandboxPool
from halcyon.evals.sandbox.running import Limits, Program, Unavailable
from halcyon_devcluster.control_plane import ControlPlane
from halcyon_devcluster.waiting import until
from tests.apiserver import sandboxes
from tests.apiserver.api import Api
from tests.apiserver.kubelet import Kubelet
from tests.apiserver.sandboxes import POOL, Account, Controlled, Controller
from tests.suite.limits import limit
from tests.trainer.evals import samples
from tests.trainer.weights.folders import GOLDENS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

LIMITS = Limits(processor_seconds=1, seconds=limit(20), memory_bytes=256 << 20, output_bytes=4096)
FOREVER = "open('BEGUN', 'w')\nimport time\nwhile True: time.sleep(1)"


@pytest.fixture
def places(make_namespace: Callable[[], str]) -> tuple[str, str]:
    """The namespaces of the Job and of the sandboxes."""
    return make_namespace(), make_namespace()


@pytest.fixture
def account(
    agent_sandbox: None,
    api_server: ControlPlane,
    places: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Account:
    return sandboxes.apply(sandboxes.example(*places), *places, api_server, tmp_path / "kubeconfig", monkeypatch)


@pytest.fixture
def controller(api: Api, account: Account) -> Controller:
    return Controller(api, account)


@pytest.fixture
def controlled(kubelet: Kubelet, controller: Controller, places: tuple[str, str]) -> Controlled:
    """The cluster with the rights of the example. Its claims get sandboxes."""
    found = Controlled(places[1])
    found.answer, found.claims = controller.give, []
    return found


def test_a_program_runs_in_a_sandbox_that_is_deleted_afterwards(controlled: Controlled, controller: Controller) -> None:
    sandboxed = SandboxPool(POOL, cluster=controlled)
    ran = sandboxed.run(
        Program("import os\nprint(sorted(os.environ), {'a', 'b'})\ndef one(): return 1", "assert one() == 1"), LIMITS
    )
    assert (ran.outcome, ran.errors) == ("passed", "")
    assert ran.output == sandboxed.run(Program("print([], {'a', 'b'})"), LIMITS).output, (
        "a set has the same order in each process"
    )
    first, second = controlled.claims
    assert first["metadata"]["name"] != second["metadata"]["name"]
    assert first["spec"]["warmPoolRef"] == {"name": POOL}
    assert first["spec"]["lifecycle"]["shutdownPolicy"] == "Delete"
    assert controller.claims() == []


@pytest.mark.parametrize(
    ("source", "outcome"),
    [
        ("assert False", "failed"),
        ("import os\nos._exit(0)", "failed"),
        ("while True: pass", "timeout"),
        ("while True: print('x' * 1000)", "output"),
        ("import sys\nwhile True: sys.stderr.write('x' * 1000)", "output"),
        ("kept = []\nwhile True: kept.append(bytearray(1 << 20))", "memory"),
        ("import os\nos.write(1, b'0' * 32)\nos._exit(0)", "failed"),
    ],
)
def test_a_program_that_does_not_end_well_is_stopped(
    controlled: Controlled, controller: Controller, source: str, outcome: str
) -> None:
    ran = SandboxPool(POOL, cluster=controlled).run(Program(source, "assert True"), LIMITS)
    assert ran.outcome == outcome, ran
    assert len(ran.output) <= LIMITS.output_bytes
    assert len(ran.errors) <= LIMITS.output_bytes
    assert controller.claims() == []


def test_a_program_that_only_waits_is_stopped_after_its_seconds(controlled: Controlled, controller: Controller) -> None:
    ran = SandboxPool(POOL, cluster=controlled).run(
        Program("import time\ntime.sleep(100000)"), replace(LIMITS, seconds=0.5)
    )
    assert ran.outcome == "timeout"
    assert controller.claims() == []


def test_a_program_whose_pod_is_lost_runs_again_in_another_sandbox(
    controlled: Controlled, kubelet: Kubelet, controller: Controller, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    # The first process waits for its end; the next one finds the file of the first.
    source = (
        f"import os, time\nif not os.path.exists({str(begun)!r}):\n    open({str(begun)!r}, 'w')\n    time.sleep(1000)"
    )
    sandboxed = SandboxPool(POOL, cluster=controlled)
    with ThreadPoolExecutor() as threads:
        ran = threads.submit(sandboxed.run, Program(source), LIMITS)
        until(begun.exists, timeout_seconds=60, failure=lambda: "the program does not begin")
        kubelet.cut(kubelet.pods[-1])
        assert ran.result().outcome == "passed"
    assert len(controlled.claims) == 2
    assert controller.claims() == []


def test_a_program_that_ends_every_pod_has_failed(controlled: Controlled, controller: Controller) -> None:
    source = (
        "import os, signal\nos.write(2, b'x')\nos.kill(os.getppid(), 0)\nos.close(1)\nos.close(2)\nimport "
        "time\ntime.sleep(1000)"
    )

    class Losing(cluster.Exec):
        def receive(self, seconds: float) -> Any:
            frame = super().receive(seconds)
            if frame is not None and frame.channel == 2:
                self.interrupt()
            return frame

    connect = controlled.connect
    controlled.connect = lambda pod: Losing(connect(pod)._opened)  # type: ignore[method-assign]  # pyright: ignore[reportPrivateUsage]
    ran = SandboxPool(POOL, cluster=controlled).run(Program(source), LIMITS)
    assert (ran.outcome, len(controlled.claims)) == ("failed", 3)
    assert ran.errors.startswith("its pod was lost 3 times")
    assert controller.claims() == []


def test_a_pod_whose_memory_is_used_up_is_the_programs_fault(
    api: Api, controlled: Controlled, kubelet: Kubelet, places: tuple[str, str], tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    sandboxed = SandboxPool(POOL, cluster=controlled)
    with ThreadPoolExecutor() as threads:
        ran = threads.submit(sandboxed.run, Program(FOREVER.replace("BEGUN", str(begun))), LIMITS)
        until(begun.exists, timeout_seconds=60, failure=lambda: "the program does not begin")
        pod = kubelet.pods[-1]
        ended = {"terminated": {"reason": "OOMKilled", "exitCode": 137}}
        state = {"name": "python", "image": "", "imageID": "", "ready": False, "restartCount": 0, "state": ended}
        named = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod}}
        api.patch(named, {"status": {"containerStatuses": [state]}}, places[1], subresource="status")
        kubelet.cut(pod)
        assert ran.result().outcome == "memory"


def test_an_interrupt_ends_programs_and_deletes_their_claims(
    controlled: Controlled, controller: Controller, tmp_path: Path
) -> None:
    sandboxed = SandboxPool(POOL, cluster=controlled)
    begun = tmp_path / "begun"
    answered = threading.Event()

    def only_once(claim: dict[str, Any]) -> None:
        controlled.answer = lambda _: answered.set()  # the second claim waits
        controller.give(claim)

    controlled.answer = only_once
    with ThreadPoolExecutor() as threads:
        running = threads.submit(
            sandboxed.run, Program(FOREVER.replace("BEGUN", str(begun))), replace(LIMITS, seconds=limit(1000))
        )
        until(begun.exists, timeout_seconds=60, failure=lambda: "the program does not begin")
        waiting = threads.submit(sandboxed.run, Program("print()"), LIMITS)
        assert answered.wait(limit(60))
        assert len(controller.claims()) == 2
        sandboxed.stop()
        for one in (running, waiting):
            with pytest.raises(Unavailable):
                one.result()
    assert controller.claims() == []
    with pytest.raises(Unavailable, match="was stopped"):
        sandboxed.run(Program("print()"), LIMITS)
    assert len(controlled.claims) == 2


@pytest.mark.parametrize(
    ("status", "message"),
    [
        ({}, "has no free sandbox after 0 s; no controller has answered the claim"),
        (
            {"conditions": [sandboxes.condition("False", "DependenciesNotReady", "Pod is Pending")]},
            r"has no free sandbox after 0 s \(DependenciesNotReady: Pod is Pending\); give the pool more replicas",
        ),
        (
            {"conditions": [sandboxes.condition("False", "TemplateNotFound", "no template")]},
            r"gives no sandbox: TemplateNotFound \(no template\)",
        ),
    ],
    ids=["no controller", "used up", "no template"],
)
def test_a_claim_without_a_sandbox_is_an_error(
    controlled: Controlled, controller: Controller, status: dict[str, Any], message: str
) -> None:
    controlled.answer = (lambda claim: controller.say(claim, status)) if status else (lambda claim: None)
    with pytest.raises(Unavailable, match=f"the sandbox pool programs in namespace {controlled.namespace} {message}"):
        SandboxPool(POOL, cluster=controlled, wait_seconds=0.1).run(Program("print()"), LIMITS)
    assert controller.claims() == []


def test_a_pool_is_tried_before_it_is_used(
    controlled: Controlled, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert SandboxPool(POOL, cluster=controlled).check() == account.objects["SandboxWarmPool"]["spec"]["replicas"]
    monkeypatch.setattr("halcyon.evals.sandbox.pool._TRIAL", Program("print('token')"))
    with pytest.raises(
        BadConfiguration, match="its pods have a token; set automountServiceAccountToken: false in the SandboxTemplate"
    ):
        SandboxPool(POOL, cluster=controlled).check()
    monkeypatch.setattr("halcyon.evals.sandbox.cluster.COMMAND", ("sh", "-c", "echo no python >&2; exit 127"))
    with pytest.raises(Unavailable, match="a sandbox did not run the program: no python"):
        SandboxPool(POOL, cluster=controlled).check()


def evaluated(tmp_path: Path, *options: str) -> str:
    """What `halcyon eval` says about a model that does not exist: an error about the pool comes first."""
    path = samples.lines(tmp_path / "HumanEval.jsonl.gz", samples.HUMAN_EVAL)
    done = CliRunner().invoke(app, ["eval", "hf:/nowhere", "--task", f"humaneval={path}", *options])
    assert done.exit_code != 0
    assert done.output.count("\n") == 1
    return done.output


def test_a_pool_that_cannot_be_used_is_reported_before_a_model_is_read(
    account: Account, api: Api, places: tuple[str, str], tmp_path: Path
) -> None:
    here = f"namespace {places[1]}"
    options = ("--sandbox-namespace", places[1], "--sandbox-pool")
    printed = evaluated(tmp_path, *options, "other")
    assert printed.startswith(f"the sandbox pool other in {here}: there is no such SandboxWarmPool")
    role = account.objects["Role"]
    api.patch(role, {"rules": role["rules"][:-1]}, places[1])
    missing = f"the sandbox pool programs in {here}: this user may not get pods/exec, create pods/exec; bind a Role"
    until(
        lambda: missing in evaluated(tmp_path, *options, POOL),
        timeout_seconds=30,
        failure=lambda: "a missing right is not reported",
    )
    assert "--sandbox-namespace needs --sandbox-pool" in evaluated(tmp_path, *options[:2])


def test_an_evaluation_runs_its_programs_in_the_pool(
    controlled: Controlled, controller: Controller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "Cluster", lambda namespace: controlled)
    connect, handlers = controlled.connect, list[Any]()
    monkeypatch.setattr(
        controlled, "connect", lambda pod: (handlers.append(signal.getsignal(signal.SIGTERM)), connect(pod))[1]
    )
    path = samples.lines(tmp_path / "HumanEval.jsonl.gz", samples.HUMAN_EVAL)
    options = ("--task", f"humaneval={path}", "--sandbox-pool", POOL, "--results", str(tmp_path))
    done = CliRunner().invoke(app, ["eval", f"hf:{GOLDENS / 'qwen3'}", *options])
    assert done.exit_code == 0, done.output
    (answer,) = map(json.loads, (tmp_path / "humaneval.jsonl").read_text().splitlines())
    assert (answer["right"], answer["outcome"]) == (False, "failed")
    assert len(controlled.claims) == 2, "the trial, and the program"
    assert handlers == [signal.default_int_handler] * 2, "a deleted Job is an interrupt, which deletes the claims"
    assert controller.claims() == []


def test_a_cluster_without_agent_sandbox_is_reported_before_a_model_is_read(
    agent_sandbox: None, api_server: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(api_server.kubeconfig))
    monkeypatch.setattr(cluster, "GROUP", "missing.example.com")
    assert "the cluster does not have the kinds of agent-sandbox" in evaluated(tmp_path, "--sandbox-pool", POOL)


def test_the_example_is_accepted(agent_sandbox: None, api_server: ControlPlane, places: tuple[str, str]) -> None:
    found = sandboxes.example(*places)
    arguments = ["create", "--dry-run=server", "--filename=-", "--warnings-as-errors", "--validate=strict"]
    printed = api_server.kubectl(*arguments, stdin=yaml.safe_dump_all(found))
    assert printed.count("created (server dry run)") == len(found) == 6
