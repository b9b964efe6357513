"""The API server down, alone and together with the operator; and a node with a termination notice. These tests would
disturb other tests."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from halcyon_devcluster.waiting import until
from tests.cluster.scripted import INTERVAL_SECONDS, Operator, Runs, causes, counts, document
from tests.faults import rows
from tests.faults.table import Trials

pytestmark = [pytest.mark.cluster, pytest.mark.alone, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def calm(runs: Runs) -> Iterator[str]:
    """A run that loses no pod until a test evicts one. It saves on request, and when it stops."""
    name = f"calm-{secrets.token_hex(3)}"
    runs.apply_all(document(name, "rate=10", "save=1000000"))
    yield name
    runs.delete(name)


def test_a_preemption_notice_of_a_node_makes_its_runs_save(runs: Runs, calm: str) -> None:
    before = runs.training(calm)
    node = runs.devcluster.kubectl("get", "nodes", "--output=name").split()[0].removeprefix("node/")
    taint = "cloud.google.com/impending-node-termination"
    runs.devcluster.kubectl("taint", "node", node, f"{taint}=:NoSchedule")
    try:
        status = runs.wait(calm, "saved", lambda status: "step" in (status.get("maintenance", {}).get("save") or {}))
        (notice,) = status["maintenance"]["notices"]
        assert (notice["node"], notice["notice"]) == (node, "terminating")
        assert status["checkpoint"]["step"] == status["maintenance"]["save"]["step"] >= before["progress"]["step"]
        assert runs.wait_for_events(calm, "MaintenanceNotice").count("MaintenanceNotice") == 1
    finally:
        runs.devcluster.kubectl("taint", "node", node, f"{taint}-")
    status = runs.wait(calm, "without notices", lambda status: "maintenance" not in status)
    assert causes(status) == causes(before), "no process may end because of a notice"


@rows.CONTROL_PLANE
@pytest.mark.parametrize("operator_too", [False, True], ids=["api-server", "api-server-and-operator"])
def test_a_run_restarts_after_a_preemption_without_an_api_server(
    runs: Runs, operator: Operator, calm: str, name: str, trials: Trials, operator_too: bool
) -> None:
    """No pod can start meanwhile, but nothing is lost: JobSet restarts the run when the API server is back, with or
    without the operator.

    A run that loses no pod trains on all the time. A later eviction of it is handled as usual.
    """
    runs.apply(name, "rate=10", "save=5")
    group = runs.group(calm)
    before = runs.training(calm, *group)
    runs.training(name, step=10)
    ctr, faults = runs.devcluster.cluster.ctr, runs.devcluster.faults
    victim, peer = (set(ctr.containers(runs.namespace, pod)) for pod in runs.pods(name))
    pods = set(runs.names("pod", name))

    def running(ids: set[str]) -> list[str]:
        return [task.container for task in ctr.tasks() if task.container in ids and task.status == "RUNNING"]

    def restarted() -> bool:
        fresh = [pod for pod in runs.names("pod", name) if pod not in pods]
        return runs.restarts(f"{name}-1") == 1 and len(fresh) == 2

    if operator_too:
        operator.scale(0)
    try:
        with faults.apiserver_down():
            (process,) = running(victim)
            ctr("tasks", "kill", "--signal", "SIGTERM", process)  # as a node does before it shuts down
            until(
                lambda: not running(victim),
                timeout_seconds=60,
                failure=lambda: "the process does not end after SIGTERM",
            )
            assert running(peer), "the other process must train on"
        until(
            restarted,
            timeout_seconds=90,
            interval_seconds=INTERVAL_SECONDS,
            failure=lambda: str(runs.names("pod", name)),
        )
    finally:
        if operator_too:
            operator.scale(1)
    status = runs.training(name, restart=1)
    assert (status["attempt"], counts(status)) == (1, {"preempted": 1})
    assert [(entry["attempt"], entry["restart"]) for entry in status["history"]] == [(1, 0), (1, 1)]
    assert status["history"][0]["cause"] == "preempted"
    assert len(runs.names("jobset", name)) == 1
    trials.count("preemptions without an API server" + (" and without an operator" if operator_too else ""))
    went_on = runs.training(calm, *group, step=before["progress"]["step"] + 1)
    assert causes(went_on) == causes(before)
    trials.count("API servers away in mid-run")
    faults.evict(runs.namespace, runs.pods(calm)[0])
    attempt, restart = group
    assert counts(runs.training(calm, attempt, restart + 1), before) == {"preempted": 1}
