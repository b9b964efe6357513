"""Two operators and one Lease, on the real API server: the leader is killed, stopped and continued, and terminated.

The writes of each process are read from the API server's audit log, where every request has the name of its process.
"""

from __future__ import annotations

import secrets
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from halcyon_api.generate.crd import custom_resource_definition
from halcyon_devcluster.audit import AuditLog, Request
from tests.cluster.conftest import DevCluster
from tests.cluster.operators import OperatorProcess
from tests.cluster.scripted import Runs, build_scripted_trainer
from tests.suite import promises
from tests.suite.limits import limit

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

FAILOVER_SECONDS = 20
Start = Callable[[str], OperatorProcess]


@pytest.fixture
def runs(devcluster: DevCluster, namespace: str) -> Runs:
    devcluster.kubectl.apply([custom_resource_definition()])
    return Runs(devcluster, namespace)


@pytest.fixture
def start(runs: Runs, python_image: str, tmp_path: Path) -> Iterator[Start]:
    """Starts operators that compete for one Lease. All are stopped after the test."""
    trainer = build_scripted_trainer(runs.devcluster, python_image)
    started: list[OperatorProcess] = []

    def start_operator(name: str) -> OperatorProcess:
        found = OperatorProcess.start(
            name,
            runs.devcluster.kubeconfig,
            runs.namespace,
            tmp_path,
            trainerImage=trainer,
            lease={"namespace": runs.namespace},
        )
        started.append(found)
        found.await_ready()
        return found

    yield start_operator
    for operator in started:
        operator.stop()


def taken_over(heir: OperatorProcess, since: float) -> float:
    """Wait until an operator leads. Returns the seconds since `since`."""
    heir.until(lambda: heir.leads, "leading", FAILOVER_SECONDS)
    return time.monotonic() - since


def wrote(requests: list[Request], name: str) -> list[Request]:
    """The writes of a process, successful or not, except those to the Lease."""
    return [
        request
        for request in requests
        if request.agent.endswith(f"({name})") and request.write and request.resource != "leases"
    ]


@promises.TWO_REPLICAS
def test_another_operator_takes_over_when_the_leader_is_killed_stopped_or_terminated(
    runs: Runs, start: Start, record_property: Callable[[str, object], None]
) -> None:
    path = runs.devcluster.cluster.paths.audit_log
    if not path.exists():
        pytest.skip("the API server of this cluster keeps no audit log")
    audit, log = AuditLog(path), list[Request]()
    one, two, three = (f"run-{secrets.token_hex(2)}" for _ in range(3))
    a, b = start("operator-a"), start("operator-b")
    a.until(lambda: a.leads, "leading", FAILOVER_SECONDS)
    assert (b.leads, b.ready) == (False, True)
    runs.apply(one)
    runs.training(one)

    # Killed: the other operator finishes what it left unfinished, and nothing is done twice.
    runs.apply(two)
    a.kill()
    record_property("seconds after SIGKILL", taken_over(b, time.monotonic()))
    runs.training(two)
    runs.devcluster.faults.evict(runs.namespace, runs.pods(one)[1])
    runs.training(one, restart=1)

    # Stopped (SIGSTOP) in the middle of its work, and continued after another operator has taken over and made changes.
    c = start("operator-c")
    assert not c.leads
    b.signal(signal.SIGSTOP)
    record_property("seconds after SIGSTOP", taken_over(c, time.monotonic()))
    runs.patch(one, suspend=True)
    runs.in_phase(one, "Suspended")
    log += audit.new()
    b.signal(signal.SIGCONT)
    b.until(lambda: b.ready and not b.leads, "standing by", FAILOVER_SECONDS)
    runs.patch(one, suspend=False)
    runs.training(one, attempt=2)
    since_woken = list(audit.new())
    log += since_woken
    assert wrote(since_woken, "operator-b") == []
    assert wrote(since_woken, "operator-c") != []

    # Terminated: it releases the Lease, and exits with 0.
    left = time.monotonic()
    c.signal(signal.SIGTERM)
    record_property("seconds after SIGTERM", taken_over(b, left))
    assert c.process.wait(timeout=limit(30)) == 0
    runs.apply(three)
    runs.training(three)
    log += audit.new()

    own = [request for request in log if request.namespace == runs.namespace]
    created = Counter(
        request.name
        for request in own
        if (request.verb, request.resource) == ("create", "jobsets") and request.code == 201
    )
    assert created == {f"{one}-1": 1, f"{one}-2": 1, f"{two}-1": 1, f"{three}-1": 1}
    assert all(wrote(own, name) for name in ("operator-a", "operator-b", "operator-c"))
    statuses = {name: runs.status(name)["restarts"] for name in (one, two)}
    assert (statuses[one]["preempted"], statuses[two]["total"]) == (1, 0)
