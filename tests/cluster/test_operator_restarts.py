"""The kubelet restarts an operator that hangs, and one that loses its rights in a namespace. No run is disturbed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from halcyon_devcluster.waiting import until
from tests.cluster.conftest import DevCluster
from tests.cluster.scripted import INTERVAL_SECONDS, Operator, Runs, counts, document, installed, made_namespace

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


@dataclass(frozen=True)
class Shared:
    """Two namespaces with a run in each, and their operator."""

    doomed: Runs
    kept: Runs
    operator: Operator

    def await_restart(self, number: int, seconds: float) -> None:
        """Wait until the kubelet has restarted the operator's container and it is ready."""
        where = ("--namespace", self.operator.namespace)
        until(
            lambda: self.operator.restarts == number,
            timeout_seconds=seconds,
            interval_seconds=INTERVAL_SECONDS,
            failure=lambda: self.kept.devcluster.kubectl("describe", "pods", *where) + self.operator.log(),
        )
        self.operator.await_ready()


@pytest.fixture(scope="module")
def shared(devcluster: DevCluster, python_image: str) -> Iterator[Shared]:
    with (
        made_namespace(devcluster, "doomed") as doomed,
        made_namespace(devcluster, "kept") as kept,
        installed(devcluster, python_image, doomed, kept) as operator,
    ):
        found = Shared(Runs(devcluster, doomed), Runs(devcluster, kept), operator)
        for runs in (found.doomed, found.kept):
            runs.apply_all(document("run", "rate=10", "save=5", accelerator={"type": "cpu"}))
        yield found


def test_an_operator_that_hangs_is_started_again_and_no_run_is_disturbed(shared: Shared) -> None:
    """The operator is stopped and does not answer, like a blocked event loop: its liveness probe fails."""
    operator, runs = shared.operator, shared.kept
    before, restarts = runs.training("run"), operator.restarts
    ctr = runs.devcluster.cluster.ctr
    own = set(ctr.containers(operator.namespace, operator.pod))
    (process,) = [task.container for task in ctr.tasks() if task.container in own and task.status == "RUNNING"]
    ctr("tasks", "kill", "--signal", "SIGSTOP", process)
    shared.await_restart(restarts + 1, 150)
    assert "Liveness probe failed" in runs.devcluster.kubectl("get", "events", "--namespace", operator.namespace)
    after = runs.training("run", step=before["progress"]["step"] + 1)
    assert (after["attempt"], counts(after)) == (before["attempt"], counts(before))


def test_a_deleted_namespace_removes_its_runs_and_disturbs_no_other(shared: Shared) -> None:
    """The operator's rights in the namespace are deleted with it."""
    doomed, kept, operator = shared.doomed, shared.kept, shared.operator
    devcluster = kept.devcluster
    doomed.training("run")
    before, restarts = kept.training("run"), operator.restarts
    devcluster.kubectl("delete", "namespace", doomed.namespace, "--wait=false")
    until(
        lambda: not devcluster.kubectl("get", "namespace", doomed.namespace, "--ignore-not-found"),
        timeout_seconds=120,
        interval_seconds=1,
        failure=lambda: devcluster.kubectl("get", "namespace", doomed.namespace, "--output=yaml"),
    )
    shared.await_restart(restarts + 1, 90)
    devcluster.faults.kill_container(kept.namespace, kept.pods("run")[0])
    after = kept.training("run", restart=before["history"][-1]["restart"] + 1)
    assert after["attempt"] == before["attempt"] == 1
    assert f"no right to the TrainingRuns of {doomed.namespace}: left out until there is one" in operator.log()
    assert operator.restarts == restarts + 1
