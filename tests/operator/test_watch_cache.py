"""The cache of the watches: a reconciliation without a change costs no request, any other asks the API server first,
and no decision depends on stale data."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest

from halcyon_api import names
from halcyon_operator.kube.cluster import Cluster
from halcyon_operator.model.views import PodView
from halcyon_operator.observe.observer import Observer
from halcyon_operator.observe.pods import parse_pod
from halcyon_operator.observe.trainers import (
    FIRST_PAUSE_SECONDS,
    LONGEST_PAUSE_SECONDS,
    MAX_AT_ONCE,
    PATIENCE_SECONDS,
    Polls,
    ReportReading,
)
from halcyon_operator.observe.watch_cache import SeenPod, WatchCache
from halcyon_operator.run.controller import Controller
from halcyon_operator.run.health import STUCK_SECONDS, Supervision, WatchAudit, WriteWatch, health_problem
from halcyon_operator.run.metrics import Metrics
from tests.operator import test_work_queue
from tests.operator.builders import SETTINGS, jobset, pod, report, run
from tests.operator.simulation import KEY, RUN, FakeApi, SimulatedCluster
from tests.operator.test_crashes import cleaned_up, deleted, edited, plain, suspended
from tests.variants import few_of


class Watched(FakeApi):
    """The cluster in memory, which counts reads."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def _read(self, path: str, query: dict[str, str]) -> dict[str, Any]:
        self.reads += 1
        return super()._read(path, query)


class WatchedCluster(SimulatedCluster):
    """The simulated cluster with an operator that uses the watch cache.

    Each of its watches is sometimes late by one reconciliation.
    """

    def __init__(self, document: dict[str, Any], lag: random.Random | None = None) -> None:
        self.lag = lag
        self.late: set[str] = set()
        super().__init__(document)
        objects = self.api.objects
        self.api = Watched()
        self.api.objects = objects
        self._start_operator()

    def _start_operator(self) -> None:
        super()._start_operator()
        self.cache = WatchCache()
        cluster, metrics = Cluster(self.api), Metrics()  # type: ignore[arg-type]
        observer = Observer(
            cluster, self, self, self.pod_endings, SETTINGS, self.notices, token=lambda: "the-token", cache=self.cache
        )  # type: ignore[arg-type]
        echo = WriteWatch(lambda: self.now)
        self.controller = Controller(
            self.queue, observer, cluster, self.pod_endings, metrics, echo, "test", self.clock, lambda: self.now, self
        )

    def show(self) -> None:
        """The watches show the current objects; a late watch shows nothing this time."""
        shown: dict[str, list[tuple[str, dict[str, Any]]]] = {"TrainingRun": [], "JobSet": [], "Pod": []}
        for place, thing in self.api.objects.items():
            thing["metadata"].setdefault("resourceVersion", str(self.api.version))
            if (kind := thing.get("kind", "Pod")) in shown:
                shown[kind].append((place, thing))
        for kind, things in shown.items():
            if self.lag is not None and kind not in self.late and self.lag.random() < 0.5:
                self.late.add(kind)
                continue
            self.late.discard(kind)
            for _, thing in things:
                if kind == "TrainingRun":
                    self.cache.saw_run(thing)
                elif kind == "JobSet":
                    self.cache.saw_jobset(KEY, thing)
                else:
                    self.cache.saw_pod(KEY, SeenPod(thing))

    async def reconcile_once(self) -> None:
        self.show()
        await super().reconcile_once()


@pytest.mark.parametrize("story", [plain, edited, suspended, deleted, cleaned_up])
@pytest.mark.parametrize("seed", few_of([None, 1, 2, 3], [1]))
def test_every_scenario_ends_as_it_does_without_the_cache(story: Any, seed: int | None) -> None:
    """However late the watches are: every write is decided from the API server's answer."""
    plainly, watched = SimulatedCluster(run()), WatchedCluster(run(), None if seed is None else random.Random(seed))
    for cluster in (plainly, watched):
        story(cluster)
    keep = ("phase", "attempt", "restarts", "failuresWithoutCheckpoint")
    ends = [cluster.api.objects.get(RUN, {}).get("status", {}) for cluster in (watched, plainly)]
    assert [ends[0].get(key) for key in keep] == [ends[1].get(key) for key in keep]
    assert watched.api.created == plainly.api.created


def test_a_run_without_a_change_costs_no_request() -> None:
    cluster = WatchedCluster(run())
    cluster.settle()
    cluster.train(50)
    cluster.settle()
    assert cluster.status["phase"] == "Running"

    async def reconciles(times: int) -> int:
        before = cluster.api.reads
        for _ in range(times):
            cluster.now += 1
            await cluster.reconcile_once()
        return cluster.api.reads - before

    assert asyncio.run(reconciles(20)) == 0
    writes = cluster.api.writes
    cluster.train(60)
    assert asyncio.run(reconciles(20)) == 0, "new progress must be written without a read"
    assert cluster.api.writes > writes

    async def checked() -> int:
        cluster.controller.check([KEY], 0)
        return await reconciles(1)

    assert asyncio.run(checked()) == 3, "the regular check must read everything, even without a reason"
    cluster.end_jobset("Failed", "ReachedMaxRestarts", 4)
    assert asyncio.run(reconciles(1)) > 0, "an end must be judged from the API server's answer"


def test_many_runs_are_checked_one_after_another() -> None:
    """Until its check is due, a run uses the watch cache, however often it is reconciled."""
    cluster = WatchedCluster(run())
    cluster.settle()
    cluster.train(50)
    cluster.settle()

    async def reads() -> int:
        before = cluster.api.reads
        await cluster.reconcile_once()
        return cluster.api.reads - before

    async def story() -> list[int]:
        cluster.controller.check([("elsewhere", str(number)) for number in range(99)] + [KEY], 300)
        found = [await reads()]
        cluster.now += 29
        found.append(await reads())
        cluster.now += 2
        found.append(await reads())
        found.append(await reads())
        return found

    assert asyncio.run(story()) == [0, 0, 3, 0]


def test_a_change_that_a_watch_missed_is_corrected_by_the_next_listing() -> None:
    store = WatchCache()
    document, first, second = run(), jobset(1), pod()
    for number, thing in enumerate((document, first, second)):
        thing["metadata"]["resourceVersion"] = str(10 + number)
    store.saw_run(document)
    store.saw_jobset(KEY, first)
    store.saw_pod(KEY, SeenPod(second))
    store.listed(KEY, document, (), ())
    assert (store.jobsets(KEY), store.pods(KEY)) == ((), ())
    assert (store.keys(), store.under_way) == ((KEY,), 1)
    store.listed(KEY, None, (), ())
    assert (store.run(KEY), store.keys(), store.under_way) == (None, (), 0)
    store.saw_pod(KEY, SeenPod(second))
    assert store.keys() == (KEY,), "one reconciliation must find out whether the run exists"


def test_a_deleted_run_that_no_watch_reported_is_detected() -> None:
    async def story() -> list[tuple[str, str]]:
        cluster = WatchedCluster(run())
        cluster.show()
        del cluster.api.objects[RUN]
        found: list[tuple[str, str]] = []

        def check(keys: Any, _: float) -> None:
            found.extend(keys)
            watching.cancel()

        audit = WatchAudit(cluster.cache.version, lambda: cluster.now)
        api = Cluster(cluster.api)  # type: ignore[arg-type]
        warm = asyncio.Event()
        warm.set()
        watching = asyncio.create_task(Supervision(api, ("default",), audit, cluster.cache.keys, check).run(warm, 0.01))
        await asyncio.gather(watching, return_exceptions=True)
        cluster.controller.check(found, 0)
        await cluster.reconcile_once()
        assert cluster.cache.run(KEY) is None
        return found

    assert asyncio.run(story()) == [KEY]


def test_only_active_runs_count_as_under_way() -> None:
    store = WatchCache()
    for number, phase in enumerate(("Succeeded", "Failed", "Suspended", "Running", "Starting")):
        document = run({"phase": phase, "observedGeneration": 1}, name=f"run-{number}")
        store.saw_run(document)
    assert store.under_way == 2
    store.saw_run(run(name="run-3"), deleted=True)
    assert store.under_way == 1


def test_an_older_event_changes_nothing() -> None:
    store = WatchCache()
    new, old = run(), run(suspend=True)
    new["metadata"]["resourceVersion"], old["metadata"]["resourceVersion"] = "20", "19"
    store.saw_run(new)
    store.saw_run(old)
    seen = store.run(KEY)
    assert seen is not None
    assert seen.resource_version == "20"
    store.saw_run(new, deleted=True)
    assert store.version(("trainingruns", *KEY)) is None


def test_a_probe_and_the_pods_of_an_earlier_run_are_distinguished() -> None:
    store, alien, looking = WatchCache(), pod(), pod(1, 0, 1)
    alien["metadata"]["labels"][names.LABEL_RUN_UID] = "another"
    looking["metadata"]["labels"][names.LABEL_ROLE] = names.ROLE_PROBE
    store.saw_pod(KEY, SeenPod(alien))
    store.saw_pod(KEY, SeenPod(looking))
    assert sorted((seen.run_uid == "another", seen.role) for seen in store.pods(KEY)) == [
        (False, "probe"),
        (True, "attempt"),
    ]


def test_the_watches_are_complete_when_they_have_shown_all_that_was_listed() -> None:
    seen: dict[Any, int] = {}
    now = [0.0]
    audit = WatchAudit(seen.get, lambda: now[0])
    assert not audit.complete, "nothing has been listed yet"
    a, b = ("pods", "n", "a"), ("jobsets", "n", "b")
    audit.listed([(a, 5), (b, 7)])
    seen[a] = 6
    seen[b] = 6
    assert not audit.complete
    now[0] = STUCK_SECONDS + 1
    assert audit.lag_seconds == STUCK_SECONDS + 1
    assert "objects that exist" in health_problem(WriteWatch(lambda: now[0]), audit, 0)
    audit.listed([(b, 99)])
    assert audit.lag_seconds == STUCK_SECONDS + 1, "it has not yet shown the version of the first list"
    seen[b] = 7
    assert audit.complete
    assert health_problem(WriteWatch(lambda: now[0]), audit, 0) == ""
    assert "does not end" in health_problem(WriteWatch(lambda: now[0]), audit, STUCK_SECONDS + 1)
    audit.listed([(a, 50)])
    audit.listed([])
    assert audit.complete, "it must not wait for a deleted object"


@dataclass
class Silent:
    """Trainers: those in `answers` answer, those in `refuses` fail at once, and all others do not answer within 2 s."""

    answers: set[str] = field(default_factory=set)
    refuses: set[str] = field(default_factory=set)
    asked: list[tuple[str, float]] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    async def read(self, pod: PodView, port: int, run: str) -> ReportReading:
        self.asked.append((pod.uid, asyncio.get_running_loop().time()))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if pod.uid in self.answers:
                await asyncio.sleep(0.005)
                return ReportReading(report())
            if pod.uid not in self.refuses:
                await asyncio.sleep(2)
            return ReportReading(problem="no answer")
        finally:
            self.at_once -= 1


@cache
def named(uid: str) -> PodView:
    document = pod()
    document["metadata"]["uid"] = uid
    return parse_pod(document)


@pytest.mark.parametrize("rounds", [400, pytest.param(1000, marks=pytest.mark.variant)])
def test_pods_that_do_not_answer_delay_no_reconciliation_and_are_polled_less_often(rounds: int) -> None:
    async def story() -> None:
        loop, trainers, changed = asyncio.get_running_loop(), Silent(), list[Any]()
        polls = Polls(trainers, changed.append, loop.time)
        for _ in range(rounds):
            for number in range(60):
                before = loop.time()
                reading = await polls.read(("n", f"run-{number}"), named(f"pod-{number}"), 80)
                assert (reading.report, loop.time()) == (None, before)
            await asyncio.sleep(1)
        assert trainers.most_at_once == MAX_AT_ONCE
        times = [when for uid, when in trainers.asked if uid == "pod-0"]
        assert times[1] - times[0] >= FIRST_PAUSE_SECONDS
        assert times[-1] - times[-2] >= LONGEST_PAUSE_SECONDS
        assert len(times) < 25
        assert len(changed) == 60, "each run must be notified once of the problem"
        await polls.close()

    test_work_queue.run(story())


def test_a_trainer_that_answers_is_waited_for_and_its_first_answer_is_reported() -> None:
    async def story() -> None:
        loop, trainers, changed = asyncio.get_running_loop(), Silent(refuses={"a"}), list[Any]()
        polls, key, trainer = Polls(trainers, changed.append, loop.time), ("n", "run"), named("a")
        assert (await polls.read(key, trainer, 80)).report is None
        await asyncio.sleep(1.5)
        assert changed == [key]
        trainers.answers.add("a")
        await polls.read(key, trainer, 80)
        await asyncio.sleep(0.1)
        assert changed == [key, key]
        before = len(trainers.asked)
        assert (await polls.read(key, trainer, 80)).report is not None
        assert len(trainers.asked) == before + 1, "it must be polled again, and waited for"
        assert len(changed) == 2
        trainers.answers.clear()
        trainers.refuses.clear()
        began = loop.time()
        assert (await polls.read(key, trainer, 80)).report is not None, (
            "the last report must be used until the poll has failed"
        )
        assert loop.time() - began <= PATIENCE_SECONDS + 0.01
        await asyncio.sleep(3)
        assert len(changed) == 3
        assert (await polls.read(key, trainer, 80)).report is None
        await polls.close()

    test_work_queue.run(story())


def test_a_leader_that_stands_down_reports_no_runs() -> None:
    cluster = WatchedCluster(run())
    cluster.settle()
    metrics: Metrics = cluster.controller.metrics
    assert metrics.registry.get_sample_value("halcyon_operator_runs", {"phase": "Starting"}) == 1
    cluster.controller.stop_managing()
    assert metrics.registry.get_sample_value("halcyon_operator_runs", {"phase": "Starting"}) == 0
