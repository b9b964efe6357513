"""The operator's Prometheus metrics. Names and units follow Prometheus' conventions.

Only goodput and the metrics of `run_metrics` have a run's name as label, and are removed with the run. No other label
has more values with more runs."""

import asyncio
from collections import Counter as Tally
from collections.abc import Callable
from typing import get_args

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from halcyon_api.ends import COUNTERS
from halcyon_api.status.run_status import Phase, TrainingRunStatus
from halcyon_api.training_run import TrainingRunSpec
from halcyon_operator.model.views import RunKey
from halcyon_operator.run.run_metrics import RunCollector

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """All metrics of the operator and its runs."""

    def __init__(self, version: str = "") -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        Info("halcyon_operator_build", "Version of the operator.", registry=self.registry).info({"version": version})
        self.reconciles = self._counter("reconciles", "Reconciles of runs, by result: ok, conflict or error.", "result")
        self.reconcile_seconds = self._histogram("reconcile_seconds", "Duration of the reconcile of a run.")
        self.queue_depth = self._gauge("queue_depth", "Runs that wait for a reconcile.")
        self.runs = self._gauge("runs", "Training runs, by phase.", "phase")
        self.restarts = self._counter("restarts", "Process groups that were followed by another, by cause.", "cause")
        self.api_requests = self._counter(
            "api_requests", "Requests to the API server, by verb, resource and code.", "verb", "resource", "code"
        )
        self.trainer_polls = self._counter(
            "trainer_polls", "Reads of a trainer's /status, by result: ok or failed.", "result"
        )
        self.head_reads = self._counter(
            "checkpoint_head_reads",
            "Reads of a checkpoint root's HEAD, by result: found, absent or unreachable.",
            "result",
        )
        self.watch_lag_seconds = self._gauge(
            "watch_lag_seconds",
            "Age of the oldest object that no watch has shown: a write of the operator, or an object of a list.",
        )
        self.leader = self._gauge("leader", "1 if this operator holds the Lease and writes, 0 if it stands by.")
        self._runs = RunCollector()
        self.registry.register(self._runs)
        self._phases: dict[RunKey, str] = {}
        for phase in get_args(Phase):
            self.runs.labels(phase)
        for cause in COUNTERS:
            self.restarts.labels(cause)
        for result in ("ok", "conflict", "error"):
            self.reconciles.labels(result)

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(f"halcyon_operator_{name}", help_text, labels, registry=self.registry)

    def _gauge(self, name: str, help_text: str, *labels: str) -> Gauge:
        return Gauge(f"halcyon_operator_{name}", help_text, labels, registry=self.registry)

    def _histogram(self, name: str, help_text: str) -> Histogram:
        return Histogram(f"halcyon_operator_{name}", help_text, buckets=_SECONDS, registry=self.registry)

    def watch(
        self, queue_depth: Callable[[], float], watch_lag_seconds: Callable[[], float], leads: Callable[[], bool]
    ) -> None:
        """Set the functions that are called at every scrape."""
        self.leader.set_function(lambda: float(leads()))
        self.queue_depth.set_function(queue_depth)
        self.watch_lag_seconds.set_function(watch_lag_seconds)

    def saw_run(
        self, key: RunKey, before: TrainingRunStatus, after: TrainingRunStatus, spec: TrainingRunSpec | None = None
    ) -> None:
        """Record a change of a run's status; `spec` is None if the document is not valid."""
        if self._phases.get(key) != after.phase:
            self._phases[key] = after.phase
            self._count_phases()
        self._runs.saw(key, spec, after)
        known, now = (status.restarts.model_dump(by_alias=True) for status in (before, after))
        for cause in COUNTERS:
            if (more := now[cause] - known[cause]) > 0:
                self.restarts.labels(cause).inc(more)

    def lost_run(self, key: RunKey) -> None:
        """Remove the metrics of a run."""
        self._phases.pop(key, None)
        self._runs.lost(key)
        self._count_phases()

    def stand_down(self) -> None:
        """Remove the metrics of all runs: another operator exports them now."""
        for key in list(self._phases):
            self.lost_run(key)

    def _count_phases(self) -> None:
        tally = Tally(self._phases.values())
        for phase in get_args(Phase):
            self.runs.labels(phase).set(tally[phase])


def _answer(problem: str) -> web.Response:
    return web.Response(status=503 if problem else 200, text=f"{problem or 'ok'}\n")


class HttpServer:
    """The server for Prometheus and the kubelet.

    Args:
        metrics: The metrics of /metrics.
        problem: Why the operator must be restarted; empty: it is healthy.
        ready: Whether its watch cache is full, so that it works or can take over.
    """

    def __init__(self, metrics: Metrics, problem: Callable[[], str], ready: Callable[[], bool]) -> None:
        self._metrics = metrics
        self._problem = problem
        self._ready = ready
        app = web.Application()
        app.router.add_get("/metrics", self._show_metrics)
        app.router.add_get("/healthz", self._show_health)
        app.router.add_get("/readyz", self._show_readiness)
        self._runner = web.AppRunner(app, access_log=None)

    async def start(self, port: int) -> None:
        """Listen on all addresses."""
        await self._runner.setup()
        await web.TCPSite(self._runner, None, port).start()

    async def stop(self) -> None:
        """Close all connections."""
        await self._runner.cleanup()

    async def _show_metrics(self, _: web.Request) -> web.Response:
        # In a thread, because a thousand runs have tens of thousands of samples.
        text = await asyncio.to_thread(generate_latest, self._metrics.registry)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _show_health(self, _: web.Request) -> web.Response:
        return _answer(self._problem())

    async def _show_readiness(self, _: web.Request) -> web.Response:
        return _answer("" if self._ready() else "the watches are not filled yet")
