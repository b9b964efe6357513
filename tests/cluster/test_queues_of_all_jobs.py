"""The real Kueue as some clusters have it: it suspends every JobSet, also one without a queue
(`manageJobsWithoutQueueName`).
"""

from __future__ import annotations

from typing import Any

import pytest

from halcyon_devcluster.kueue import kueue
from halcyon_devcluster.waiting import until
from tests.cluster.conftest import PROGRESS, DevCluster
from tests.cluster.scripted import Runs

pytestmark = [pytest.mark.cluster, pytest.mark.alone, pytest.mark.timeout(600)]


def test_a_run_without_a_queue_says_that_kueue_holds_it(devcluster: DevCluster, runs: Runs, name: str) -> None:
    def says(_: dict[str, Any]) -> bool:
        ready = runs.condition(name, "Ready")
        return ready.get("status") == "False" and "as Kueue does with manageJobsWithoutQueueName" in ready["message"]

    with kueue(devcluster.cluster, PROGRESS, manageJobsWithoutQueueName=True):
        runs.apply(name)
        status = runs.wait(name, "held by Kueue", says)
        assert status["phase"] != "Running"
        assert "spec.scheduling.queue" in runs.condition(name, "Ready")["message"]
        assert runs.pods(name) == []
        runs.delete(name)
        until(
            lambda: runs.objects("jobset", name) == [],
            timeout_seconds=60,
            failure=lambda: str(runs.objects("jobset", name)),
        )
