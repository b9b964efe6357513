"""Many runs at once, for the operator and the API server. Their pods fit on no node."""

from __future__ import annotations

import secrets

import pytest

from halcyon_devcluster.waiting import until
from tests.cluster.scripted import Operator, Runs, document

pytestmark = [pytest.mark.cluster, pytest.mark.variant, pytest.mark.timeout(300)]

RUNS_AT_ONCE = 50


def test_many_runs_at_once_get_one_jobset_each(runs: Runs, operator: Operator) -> None:
    prefix = f"many-{secrets.token_hex(2)}"
    names = [f"{prefix}-{number}" for number in range(RUNS_AT_ONCE)]
    nowhere = {"accelerator": {"type": "cpu"}, "scheduling": {"nodeSelector": {"there-is": "none"}}}
    runs.apply_all(*(document(name, **nowhere) for name in names))

    def unschedulable() -> list[str]:
        ready = [
            (run["metadata"]["name"], condition["reason"])
            for run in runs.api.items("trainingrun", runs.namespace)
            for condition in run.get("status", {}).get("conditions", [])
            if condition["type"] == "Ready"
        ]
        return sorted(name for name, reason in ready if reason == "Unschedulable" and name.startswith(prefix))

    try:
        until(
            lambda: unschedulable() == sorted(names),
            timeout_seconds=180,
            interval_seconds=1,
            failure=lambda: f"{len(unschedulable())} of {len(names)}",
        )
        jobsets = [jobset["metadata"]["name"] for jobset in runs.api.items("jobset", runs.namespace)]
        assert sorted(jobset for jobset in jobsets if jobset.startswith(prefix)) == sorted(
            f"{name}-1" for name in names
        )
    finally:
        runs.delete(*names)
    assert "Traceback" not in operator.log()
