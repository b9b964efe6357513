"""Actions and problems of one tenant do not delay the runs of another."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from halcyon_operator.decide.reconcile import reconcile
from halcyon_operator.decide.record.status_writes import COUNT_SECONDS, is_routine
from halcyon_operator.model.views import HeadPending, HeadReading
from halcyon_operator.observe import checkpoints
from halcyon_operator.observe.checkpoints import Checkpoints
from halcyon_operator.observe.head_reads import HeadReads
from halcyon_operator.run.app import LONGEST_POD_PAUSE_SECONDS, pause_after_pod
from halcyon_operator.run.metrics import Metrics
from tests.operator.builders import at, jobset, observed, pod, run, settings_of
from tests.operator.simulation import KEY, RUN, SimulatedCluster
from tests.operator.test_crashes import STORIES
from tests.suite.limits import limit
from tests.variants import few_of

WORKERS = 8


@contextlib.asynccontextmanager
async def sink() -> AsyncIterator[str]:
    """A server that accepts connections and never answers."""
    connections: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: connections.append(writer), "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in connections:
            writer.close()


class Counted:
    """Reads HEADs, and counts the finished reads."""

    def __init__(self, endpoint: str) -> None:
        self.checkpoints, self.over = Checkpoints(Metrics().head_reads, (endpoint,)), 0

    async def read(self, spec: Any) -> HeadReading:
        reading = await self.checkpoints.read(spec)
        self.over += 1
        return reading


@pytest.mark.parametrize("runs", [100, pytest.param(300, marks=pytest.mark.variant)])
def test_runs_on_a_silent_store_delay_no_other_tenants_run(runs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real sockets, the operator's own modules, a simulated API server: the other run starts before any request to the
    silent store has ended. On a slow machine a request may not end earlier for that."""
    monkeypatch.setattr(checkpoints, "TIMEOUT_SECONDS", limit(120))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")

    async def story() -> None:
        async with sink() as endpoint:
            counted, queue = Counted(endpoint), list[Any]()
            reads = HeadReads(counted, queue.append, time.monotonic)
            settings = settings_of(objectStore={"s3": {"endpoints": [endpoint]}})
            cluster = SimulatedCluster(
                run(checkpoint={"root": "s3://bucket/mine", "endpoint": endpoint}), heads=reads, settings=settings
            )
            keys = [KEY]
            for number in range(1, runs):
                name = f"demo{number}"
                document = run(name=name, checkpoint={"root": f"s3://bucket/{name}", "endpoint": endpoint})
                document["metadata"]["uid"] = f"uid-of-{number}"
                cluster.api.objects[f"{RUN.rpartition('/')[0]}/{name}"] = document
                keys.append(("default", name))
            other = run(name="other", checkpoint={"root": "file:///volume/other", "volumeClaim": "volume"})
            other["metadata"] |= {"namespace": "other", "uid": "uid-of-other"}
            place = RUN.replace("/default/", "/other/").replace("demo", "other")
            for key in keys:
                cluster.queue.add(key)
            workers = [asyncio.create_task(cluster.controller.work()) for _ in range(WORKERS)]
            cluster.api.objects[place] = other
            cluster.queue.add(("other", "other"))
            while cluster.api.objects[place].get("status", {}).get("attempt") != 1:
                await asyncio.sleep(0)
                while queue:
                    cluster.queue.add(queue.pop())
            assert counted.over <= 1, "only the other run's root may be read, which is on a volume"
            while not all(cluster.api.objects[f"{RUN.rpartition('/')[0]}/{name}"].get("status") for _, name in keys):
                await asyncio.sleep(0)
            assert counted.over <= 1
            assert cluster.status["conditions"][0]["reason"] == "ReadingCheckpointRoot"
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            await reads.close()

    asyncio.run(asyncio.wait_for(story(), limit(60)))


@pytest.mark.parametrize("known", [{}, {"jobsets": [jobset(1, outcome="Failed")]}], ids=["new", "ended"])
def test_no_object_is_created_or_deleted_before_the_store_has_answered(known: dict[str, Any]) -> None:
    decision = reconcile(observed(run(), **known, head=HeadPending()), at(0))
    assert (decision.create, decision.delete, decision.asks) == ((), (), ())


@pytest.mark.parametrize("name", few_of(STORIES, ["edited", "exhausted with progress", "cleaned up"]))
def test_a_slow_store_does_not_change_the_end_of_any_scenario(name: str) -> None:
    story, *_ = STORIES[name]
    ends = []
    for slow in (False, True):
        cluster = SimulatedCluster(run())
        cluster.slow_store = slow
        story(cluster)
        status = cluster.last_status
        ends.append(
            [
                status["phase"],
                status["attempt"],
                status.get("checkpoint"),
                [entry["cause"] for entry in status["history"]],
            ]
        )
    assert ends[0] == ends[1]


def test_pods_that_start_one_by_one_do_not_cause_one_write_each() -> None:
    """The number of running pods is no reason to list them at the API server again.

    It is reported every few seconds.
    """
    cluster = SimulatedCluster(run(accelerator={"type": "cpu", "topology": "4x1"}))
    cluster.settle()
    now, messages = 100.0, set[str]()
    for running in (2, 3):  # the record already has that one runs
        pods = [
            pod(1, 0, 0, number, **({} if number < running else {"phase": "Pending", "containerStatuses": []}))
            for number in range(4)
        ]
        seen = observed(cluster.api.objects[RUN], jobsets=[cluster.jobset or {}], pods=pods)
        status = reconcile(seen, at(now)).status
        assert status is not None
        condition = status.condition("Ready")
        assert condition is not None
        assert f"{running} of 4 pods run" in condition.message
        messages.add(condition.message)
        assert is_routine(seen, status)
        assert reconcile(replace(seen, progress_written_at=at(now - 1)), at(now)).status is None
        assert reconcile(replace(seen, progress_written_at=at(now - COUNT_SECONDS)), at(now)).status is not None
    assert len(messages) == 2


def test_a_run_of_many_pods_is_reconciled_with_pauses_while_its_pods_change() -> None:
    assert [pause_after_pod(pods) for pods in (0, 5, 64)] == [0, 0, 0]
    assert 0 < pause_after_pod(256) < 0.5
    assert pause_after_pod(10**6) == LONGEST_POD_PAUSE_SECONDS
