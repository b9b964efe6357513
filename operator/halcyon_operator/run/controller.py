"""The control loop: take a run from the queue, observe it, decide, carry the decision out.

A run is reconciled by one worker at a time; many runs are reconciled in parallel. A failed reconcile is logged, counted
in the metrics, reported in a condition and an Event of the run (unless the API server itself is the reason), and
retried after a growing delay. The run can still be suspended and deleted, and other runs are not affected. A conflict
is not a failure: the run was changed between the observation and the write, so it is reconciled again.

A reconcile begins with the watch cache, which needs no request. If the decision is more than new progress, the run is
observed again from the API server, and the decision is made from that observation. So an idle run needs no request, and
no important decision depends on a watch."""

import logging
import math
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from halcyon_operator.decide.next.fallback import after_failure
from halcyon_operator.decide.reconcile import reconcile
from halcyon_operator.decide.record.status_writes import is_routine, status_document
from halcyon_operator.kube.client import ApiError, Conflict
from halcyon_operator.kube.cluster import Cluster, create_refusal
from halcyon_operator.model.decision import Decision, Event, GuardPlan, JobSetPlan, ProbePlan, SaveAsk
from halcyon_operator.model.recent import Recent
from halcyon_operator.model.untrusted import text, value_at
from halcyon_operator.model.views import Observed, RunKey, RunView
from halcyon_operator.objects.jobset import build
from halcyon_operator.observe.memory import PodEndings
from halcyon_operator.observe.observer import Observer
from halcyon_operator.observe.trainers import Trainers
from halcyon_operator.run.health import WriteWatch
from halcyon_operator.run.metrics import Metrics
from halcyon_operator.run.work_queue import WorkQueue

logger = logging.getLogger(__name__)
MAX_REMEMBERED_EVENTS = 8192
CONFLICT_SECONDS = 0.05
CHECK_SECONDS = 0.3
"""Seconds between two runs that are checked without an event, with three reads each; shorter if there are more than a
thousand runs.
"""


@dataclass(eq=False)
class Controller:
    """Reconciles the runs of the queue.

    Args:
        queue: Runs to reconcile.
        observer: Collects observations.
        cluster: Carries out decisions.
        pod_endings: Endings of pods, dropped with their run.
        metrics: Counts reconciles.
        echo: Checks that the watch shows the operator's own writes.
        instance: Name of this operator process, for its events.
        clock: The time, in UTC.
        timer: Seconds, monotonic.
        trainers: Sends requests for checkpoints.
    """

    queue: WorkQueue[RunKey]
    observer: Observer
    cluster: Cluster
    pod_endings: PodEndings
    metrics: Metrics
    echo: WriteWatch
    instance: str
    clock: Callable[[], datetime]
    timer: Callable[[], float]
    trainers: Trainers

    def __post_init__(self) -> None:
        self._written_at: dict[RunKey, datetime] = {}
        self._refusals: dict[RunKey, str] = {}
        self._posted: Recent[tuple[str, str], None] = Recent(MAX_REMEMBERED_EVENTS)
        self._check_from: dict[RunKey, float] = {}
        self._at_work: dict[RunKey, float] = {}

    async def work(self) -> None:
        """Reconcile runs as they become due. Never returns."""
        while True:
            key = await self.queue.get()
            started = self._at_work[key] = self.timer()
            try:
                await self.reconcile_run(key)
            finally:
                del self._at_work[key]
                self.metrics.reconcile_seconds.observe(self.timer() - started)
                self.queue.done(key)

    @property
    def longest_reconcile_seconds(self) -> float:
        """Age of the oldest running reconcile.

        Every request has a time limit, so a reconcile ends unless the process is stuck.
        """
        now = self.timer()
        return max((now - started for started in list(self._at_work.values())), default=0.0)

    def check(self, keys: Iterable[RunKey], within_seconds: float) -> None:
        """Reconcile runs without an event, in case an event was lost: from the API server, one run after the other."""
        keys, now = list(keys), self.timer()
        pause = min(CHECK_SECONDS, within_seconds / max(1, len(keys)))
        for number, key in enumerate(keys, start=1):
            self._check_from.setdefault(key, now + number * pause)
            self.queue.add_after(key, number * pause)

    def begin(self, keys: Iterable[RunKey]) -> None:
        """Start to manage the runs: queue all of them."""
        for key in keys:
            self.queue.add(key)

    def stop_managing(self) -> None:
        """Stop to manage the runs: another operator does it now.

        Drop all state except the posted events, because it gets out of date.
        """
        self.metrics.stand_down()
        self._written_at.clear()
        self._refusals.clear()
        self._check_from.clear()

    async def reconcile_run(self, key: RunKey) -> None:
        """Reconcile a run once, and queue it for the next reconcile. Never raises."""
        observed: Observed | None = None
        decision: Decision | None = None
        try:
            if self.timer() < self._check_from.get(key, math.inf):
                observed, decision = await self._judge(key, self.observer.observe_from_cache)
            if observed is None or decision is None or not self._is_routine(observed, decision):
                observed, decision = await self._judge(key, self.observer.observe)
                self._check_from.pop(key, None)
            if observed is None or decision is None:
                self._forget(key)
                return
            await self._carry_out(key, observed, decision)
        except Conflict as error:
            self.metrics.reconciles.labels("conflict").inc()
            logger.debug("%s/%s changed meanwhile: %s", *key, error)
            self._check_from[key] = self.timer()
            self.queue.add_after(key, CONFLICT_SECONDS)
        except ApiError as error:
            delay = self._failed(key, error.retry_after)
            logger.warning("%s/%s: %s; again in %.1f s", *key, error, delay)
            if error.code in (400, 422) and key not in self._refusals:
                await self._fall_back(key, error)
        except Exception as error:
            # An error in one run must not stop the others.
            delay = self._failed(key)
            logger.exception("%s/%s: reconcile failed; again in %.1f s", *key, delay)
            await self._fall_back(key, error)
        else:
            self.metrics.reconciles.labels("ok").inc()
            self.queue.succeeded(key)
            if decision.requeue_after is not None:
                self.queue.add_after(key, decision.requeue_after)

    async def _judge(
        self, key: RunKey, observe: Callable[[str, str, datetime | None], Awaitable[Observed | None]]
    ) -> tuple[Observed | None, Decision | None]:
        """An observation and the decision from it."""
        observed = await observe(*key, self._written_at.get(key))
        if observed is None:
            return None, None
        observed = replace(observed, create_refusal=self._refusals.get(key, ""))
        return observed, reconcile(observed, self.clock())

    def _is_routine(self, observed: Observed, decision: Decision) -> bool:
        """Whether a decision changes only progress and messages."""
        new_events = [event for event in decision.events if (observed.run.uid, event.key) not in self._posted]
        nothing = not (decision.create or decision.delete or decision.asks or decision.boost or new_events)
        return nothing and (decision.status is None or is_routine(observed, decision.status))

    async def _carry_out(self, key: RunKey, observed: Observed, decision: Decision) -> None:
        run = observed.run
        manifests = [(plan, build(plan)) for plan in decision.create]
        if decision.status is not None:
            written = await self.cluster.write_status(run, status_document(decision.status))
            self.echo.record_write(key, value_at(written, "metadata", "resourceVersion"))
            self.observer.record_write(written)
            self._written_at[key] = self.clock()
            # A recorded conclusion needs no evidence any more.
            self.pod_endings.prune(key, decision.status.attempt, decision.status.job_set_restarts)
        try:
            self.metrics.saw_run(key, run.status, decision.status or run.status, run.spec)
        except Exception:
            logger.exception("%s/%s: its metrics are not up to date", *key)
        for deletion in decision.delete:
            logger.info("%s/%s: deleting %s %s", *key, deletion.kind, deletion.name)
            await self.cluster.delete(run.namespace, deletion)
        for plan, manifest in manifests:
            logger.info("%s/%s: creating %s %s", *key, manifest["kind"], manifest["metadata"]["name"])
            if isinstance(plan, ProbePlan | GuardPlan):
                await self._create_helper(run, plan, manifest)
            else:
                if run.workload and isinstance(plan, JobSetPlan) and self.observer.workloads is not None:
                    await self.observer.workloads.adopt(run)
                await self._create(key, manifest)
        for event in decision.events:
            await self._post(run, event)
        for ask in decision.asks:
            await self._ask(run, ask)
        if decision.boost is not None and self.observer.workloads is not None:
            await self.observer.workloads.boost(run.namespace, decision.boost)

    async def _ask(self, run: RunView, ask: SaveAsk) -> None:
        """Request a checkpoint. A failed request is sent again at the next reconcile."""
        problem = await self.trainers.send_save_request(ask)
        if problem:
            request = ask.request
            message = (
                f"Attempt {request.attempt}, restart {request.restart} cannot be asked for a checkpoint: {problem}; "
                "trying again"
            )
            key = f"ask/{request.id}/{request.attempt}.{request.restart}"
            await self._post(run, Event("Warning", "SaveNotAsked", message, key))

    async def _create(self, key: RunKey, manifest: dict[str, object]) -> None:
        """Create an object. If the API server rejects it, the next reconcile reports the reason to the user."""
        try:
            await self.cluster.create(manifest)
            self._refusals.pop(key, None)
        except Conflict:
            raise
        except ApiError as error:
            self._refusals[key] = create_refusal(text(manifest["kind"]), str(error))
            raise

    async def _create_helper(self, run: RunView, plan: ProbePlan | GuardPlan, manifest: dict[str, object]) -> None:
        """Create a probe or a guard. If the API server rejects it, the run continues without it."""
        try:
            await self.cluster.create(manifest)
        except ApiError as error:
            guard = isinstance(plan, GuardPlan)
            what = f"keep its pods off node {plan.node}" if guard else "probe for room for more slices"
            message, reason = f"The run cannot {what}: {error}", "GuardRefused" if guard else "ProbeRefused"
            await self._post(run, Event("Warning", reason, message, f"{reason}/{run.status.attempt}/{error.reason}"))

    async def _post(self, run: RunView, event: Event) -> None:
        known = (run.uid, event.key)
        if known in self._posted:
            return
        self._posted[known] = None
        logger.info("%s/%s: %s: %s", run.namespace, run.name, event.reason, text(event.message))
        await self.cluster.post(run, event, self.instance, self.clock())

    async def _fall_back(self, key: RunKey, error: Exception) -> None:
        """Carry out what is possible after a failed reconcile. Never raises."""
        self._check_from[key] = self.timer()
        try:
            observed = await self.observer.observe_objects(*key)
            if observed is None:
                return
            decision = after_failure(observed, error, self.clock())
            for deletion in decision.delete:
                await self.cluster.delete(key[0], deletion)
            if decision.status is not None:
                await self.cluster.write_status(observed.run, status_document(decision.status))
            for event in decision.events:
                await self._post(observed.run, event)
        except Conflict as conflict:  # the next reconcile reports it
            logger.debug("%s/%s changed meanwhile: %s", *key, conflict)
        except ApiError as refusal:
            logger.warning("%s/%s: the failure is not reported to the user: %s", *key, refusal)
        except Exception:
            logger.exception("%s/%s: the failure is not reported to the user", *key)

    def _failed(self, key: RunKey, at_least: float = 0.0) -> float:
        self.metrics.reconciles.labels("error").inc()
        return self.queue.add_failed(key, at_least)

    def _forget(self, key: RunKey) -> None:
        """Drop all state of a deleted run."""
        self.queue.forget(key)
        self.pod_endings.forget(key)
        self.echo.gone(key)
        self.metrics.lost_run(key)
        self._written_at.pop(key, None)
        self._refusals.pop(key, None)
        self._check_from.pop(key, None)
