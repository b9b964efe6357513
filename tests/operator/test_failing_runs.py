"""A run whose reconcile fails is reported, can be suspended and deleted, and disturbs no other run."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from halcyon_api.status.run_status import TrainingRunStatus
from halcyon_operator.model.views import Observed
from halcyon_operator.run.metrics import Metrics
from tests.operator.builders import rfc, run
from tests.operator.simulation import KEY, RUN, SimulatedCluster
from tests.operator.test_suspension import ready, training
from tests.variants import few_of

PARTS = {
    "a record": ("halcyon_operator.decide.reconcile.account", "ReconcileFailed"),
    "the choice of the next step": ("halcyon_operator.decide.next.attempts.next_step", "ReconcileFailed"),
    "a sentence": ("halcyon_operator.decide.next.carry_out.describe_attempt", "ReconcileFailed"),
    "the observation": ("halcyon_operator.observe.observer.seen_endings", "ReconcileFailed"),
    "a rule of the document": ("halcyon_operator.observe.runs.find_problems", "InvalidSpec"),
}


class Broken(Exception):
    pass


def fail(*_: object, **__: object) -> Any:
    raise Broken(f"number {next(NUMBERS)}")


NUMBERS = iter(range(1, 1_000_000))
"""The sentence differs each time, as one with a time in it."""


def condition(cluster: SimulatedCluster, kind: str) -> tuple[str, str]:
    found = next(one for one in cluster.status["conditions"] if one["type"] == kind)
    return found["status"], found["reason"]


@pytest.mark.parametrize("part", few_of(PARTS, ["a record", "the observation", "a rule of the document"]))
def test_a_run_that_the_operator_cannot_manage_says_so_and_can_be_suspended_and_deleted(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, reason = PARTS[part]
    cluster = training()
    cluster.edit(budget={"chipHours": 1e6 + next(NUMBERS)})  # not in the cache of parsed documents
    with monkeypatch.context() as patch:
        patch.setattr(place, fail)
        cluster.settle()
        assert [condition(cluster, kind) for kind in ("Ready", "Stalled")] == [("False", reason), ("True", reason)]
        if reason == "ReconcileFailed":
            assert "The operator cannot manage this run: Broken: number" in ready(cluster)[2]
            assert ready(cluster)[2].endswith(
                "it tries again, and until then only suspend: true and a deletion have effect"
            )
        assert (cluster.jobset is not None, cluster.status["attempt"]) == (True, 1), "it trains on"
        writes = cluster.api.writes
        cluster.settle()
        assert cluster.api.writes == writes, "the same trouble is written once"
        cluster.edit(suspend=True)
        cluster.settle()
        assert cluster.jobset is None
    cluster.settle()
    assert (ready(cluster)[:2], condition(cluster, "Stalled")[0]) == (("Suspended", "Suspended"), "False")
    cluster.edit(suspend=False)
    cluster.settle()
    assert cluster.status["attempt"] == 2
    with monkeypatch.context() as patch:
        patch.setattr(place, fail)
        cluster.api.objects[RUN]["metadata"]["deletionTimestamp"] = rfc(cluster.now)
        writes = cluster.api.writes
        cluster.settle()
        assert cluster.api.writes == writes, "the API server deletes what the run owns"


def test_an_object_that_cannot_be_built_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = SimulatedCluster(run())
    with monkeypatch.context() as patch:
        patch.setattr("halcyon_operator.run.controller.build", fail)
        cluster.settle()
        assert condition(cluster, "Stalled") == ("True", "ReconcileFailed")
    cluster.settle()
    assert (condition(cluster, "Stalled")[0], cluster.jobset is not None) == ("False", True)


def test_a_metric_that_cannot_be_computed_stops_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Metrics, "saw_run", fail)
    assert training().status["phase"] == "Running"


def test_a_failing_run_is_tried_again_less_and_less_often_and_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = SimulatedCluster(run())
    place = f"{RUN.rpartition('/')[0]}/other"
    cluster.api.objects[place] = run(name="other", checkpoint__root="s3://bucket/other")
    cluster.api.objects[place]["metadata"]["uid"] = "uid-of-other"

    def account(seen: Observed, status: TrainingRunStatus) -> TrainingRunStatus:
        return fail() if seen.run.name == "demo" else status

    monkeypatch.setattr("halcyon_operator.decide.reconcile.account", account)

    async def story() -> list[float]:
        delays = list[float]()
        for _ in range(6):
            await cluster.controller.reconcile_run(KEY)
            delays.append(cluster.queue.add_failed(("default", "spare")))
            await cluster.controller.reconcile_run(("default", "other"))
        return delays

    delays = asyncio.run(story())
    assert delays == sorted(set(delays))
    assert cluster.api.objects[place]["status"]["attempt"] == 1
