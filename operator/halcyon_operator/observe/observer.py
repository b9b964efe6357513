"""Collects the observation of one run."""

import asyncio
import secrets
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from halcyon_api import names
from halcyon_api.defaults.status import DEFAULT_NAME
from halcyon_operator.kube.cluster import Cluster
from halcyon_operator.model.endings import seen_endings
from halcyon_operator.model.history import group_of
from halcyon_operator.model.ownership import first_process, is_own, trainer_port
from halcyon_operator.model.settings import Settings
from halcyon_operator.model.views import (
    HeadAbsent,
    HeadReading,
    JobSetView,
    ObjectView,
    Observed,
    PlannerView,
    Pods,
    PodView,
    PodWarning,
    Prerequisite,
    ProbeView,
    Role,
    RunKey,
    RunView,
)
from halcyon_operator.model.workload import MAX_WORKLOAD_AGE_SECONDS, WorkloadReading
from halcyon_operator.observe.defaults import FoundDefaults, root_of_run, wanted
from halcyon_operator.observe.head_reads import HeadReads
from halcyon_operator.observe.jobsets import parse_jobset, parse_object
from halcyon_operator.observe.memory import OwnJobSets, PodEndings, SeenDeletions
from halcyon_operator.observe.node_notices import NodeNotices
from halcyon_operator.observe.pod_events import PodEvents
from halcyon_operator.observe.reports import ReportReading
from halcyon_operator.observe.runs import LONGEST_CHAIN, parse_prerequisite, parse_run_view
from halcyon_operator.observe.trainers import Polls
from halcyon_operator.observe.watch_cache import SeenJobSet, SeenPod, WatchCache
from halcyon_operator.observe.workloads import Workloads

HEAD_AGE_SECONDS = 10.0
"""Longest age of a reading of HEAD while an attempt runs. A decision about a new attempt needs a new reading."""


@dataclass(eq=False)
class Observer:
    """Observes runs.

    Args:
        cluster: Reads runs, JobSets and pods.
        heads: Reads HEADs of checkpoint roots.
        trainers: Reads progress reports.
        pod_endings: Recorded endings of pods, which may be deleted.
        settings: The operator's settings.
        nodes: Maintenance notices of nodes; None: nodes are not watched.
        token: Creates new secrets.
        cache: The watch cache; None: every observation reads from the API server.
        pace: Shortest seconds between two routine reconciles of a run.
        workloads: Reads Workloads; None: queues are not used.
        warnings: Reads warnings about late pods; None: their events are not read.
    """

    cluster: Cluster
    heads: HeadReads
    trainers: Polls
    pod_endings: PodEndings
    settings: Settings
    nodes: NodeNotices | None
    token: Callable[[], str] = lambda: secrets.token_urlsafe(24)
    cache: WatchCache | None = None
    pace: Callable[[], float] = lambda: 0.0
    workloads: Workloads | None = None
    warnings: PodEvents | None = None

    def __post_init__(self) -> None:
        self._own = OwnJobSets()
        self._deletions = SeenDeletions(time.monotonic)

    async def observe_from_cache(
        self, namespace: str, name: str, progress_written_at: datetime | None
    ) -> Observed | None:
        """The observation of a run from the watch cache, without a request to the API server; None if no attempt
        runs.
        """
        key = namespace, name
        if self.cache is None or (run := self.cache.run(key)) is None or run.defaults_due:
            return None
        found = self.cache.jobsets(key)
        if not any(_at_work(run, seen.view) for seen in found if seen.role == "attempt"):
            return None
        age = max(MAX_WORKLOAD_AGE_SECONDS, self.pace())
        return await self._complete(key, run, found, self.cache.pods(key), progress_written_at, age)

    def record_write(self, document: object) -> None:
        """Record the written version of a run, which the watch shows only later."""
        if self.cache is not None:
            self.cache.saw_run(document)

    async def observe(self, namespace: str, name: str, progress_written_at: datetime | None) -> Observed | None:
        """The observation of a run from the API server; None if there is no such run.

        Raises:
            ApiError: The API server rejected a read or did not answer.
        """
        key = namespace, name
        document, jobset_documents, seen = await asyncio.gather(
            self.cluster.run(namespace, name),
            self.cluster.jobsets(namespace, name),
            self.cluster.pods(namespace, name, SeenPod),
        )
        if self.cache is not None:
            self.cache.listed(key, document, jobset_documents, seen)
        if document is None:
            self._deletions.forget(key)
            if self.nodes is not None:
                self.nodes.forget(key)
            return None
        run = parse_run_view(document)
        if run.defaults_due and not run.deleting:
            run = parse_run_view(document, await self._defaults(document, run))
        for pod in seen:
            self.pod_endings.record(key, pod.view)
        found = tuple(map(SeenJobSet, jobset_documents))
        earlier = () if run.status.attempt else _of_earlier_runs(run, seen)
        return await self._complete(key, run, found, seen, progress_written_at, 0.0, earlier)

    async def observe_objects(self, namespace: str, name: str) -> Observed | None:
        """The run and its JobSets alone, for a run whose observation or decision failed."""
        document = await self.cluster.run(namespace, name)
        found = map(SeenJobSet, await self.cluster.jobsets(namespace, name))
        jobsets = tuple(one.view for one in found if one.role == "attempt")
        return None if document is None else Observed(parse_run_view(document), self.settings, jobsets)

    async def _complete(
        self,
        key: RunKey,
        run: RunView,
        found: Sequence[SeenJobSet],
        seen: Sequence[SeenPod],
        progress_written_at: datetime | None,
        workload_age: float,
        earlier: Pods = (),
    ) -> Observed:
        """The observation: objects that were read from the cluster, with HEAD, report, prerequisites and Workload."""
        jobsets = tuple(one.view for one in found if one.role == "attempt")
        pods = _pods_of(run, self._own.of(run, jobsets), seen, "attempt")
        alive = next((jobset for jobset in jobsets if _at_work(run, jobset)), None)
        config_map: ObjectView | None = None
        lost = False
        if alive is None and run.status.attempt > 0:
            jobsets, config_map = await self._named(run, jobsets)
        elif alive is not None and any(_mounts(pod) for pod in pods):
            lost = await self.cluster.config_map(run.namespace, alive.name) is None
        head, reading, (origin, origin_root), prerequisites, workload = await asyncio.gather(
            self._head(run, jobsets, pods, alive),
            self._report(run, pods, alive),
            self._origin(run, None if lost else alive),
            self._prerequisites(run),
            self._workload(run, alive, workload_age),
        )
        own = self._own.of(run, jobsets)
        noted = (ending for ending in self.pod_endings.endings(key) if is_own(ending, run, own))
        endings, replaced = seen_endings(pods, noted)
        return Observed(
            run=run,
            settings=self.settings,
            jobsets=jobsets,
            pods=pods,
            probe=next(iter(_with_pods(run, found, seen, "probe")), None),
            guards=_with_pods(run, found, seen, "guard"),
            planner=_planner(run, found, seen),
            endings=endings,
            replaced=replaced,
            head=head,
            origin=origin,
            origin_root=origin_root,
            prerequisites=prerequisites,
            report=reading.report,
            report_problem=reading.problem,
            config_map=config_map,
            config_map_lost=lost,
            progress_written_at=progress_written_at,
            earlier_pods=earlier,
            deleting_seconds=self._deletions.seconds(key, (*pods, *earlier)),
            pod_warning=self._warning(key, run, pods, alive),
            notices=() if self.nodes is None else self.nodes.on(key, (pod.node for pod in pods if not pod.over)),
            workload=workload,
            fresh_token=self.token(),
            pace_seconds=self.pace(),
        )

    def _warning(self, key: RunKey, run: RunView, pods: Pods, alive: JobSetView | None) -> PodWarning | None:
        """Why the first late pod of the run's process group does not start, or why it has too few pods."""
        if self.warnings is None or alive is None:
            return None
        group = group_of(run.status, alive)
        return self.warnings.of(key, [pod for pod in pods if pod.group == group], alive, run.status)

    async def _named(
        self, run: RunView, jobsets: tuple[JobSetView, ...]
    ) -> tuple[tuple[JobSetView, ...], ObjectView | None]:
        """JobSet and ConfigMap with the names of the present attempt's objects. Any object may own them."""
        name = names.jobset_name(run.name, run.status.attempt)
        known = any(jobset.name == name for jobset in jobsets)
        jobset, config_map = await asyncio.gather(
            _nothing() if known else self.cluster.jobset(run.namespace, name),
            self.cluster.config_map(run.namespace, name),
        )
        found = jobsets if jobset is None else (*jobsets, parse_jobset(jobset))
        return found, None if config_map is None else parse_object("ConfigMap", config_map)

    async def _head(
        self, run: RunView, jobsets: tuple[JobSetView, ...], pods: Pods, alive: JobSetView | None
    ) -> HeadReading:
        if run.spec is None or run.spec.managed_by is not None or run.deleting:
            return HeadAbsent()
        age = max(HEAD_AGE_SECONDS, self.pace()) if alive is not None else 0.0
        return await self.heads.read((run.namespace, run.name), run.spec.checkpoint, _writers(run, jobsets, pods), age)

    async def _origin(self, run: RunView, alive: JobSetView | None) -> tuple[Prerequisite | None, str | None]:
        """The run of `spec.from` if it has no root yet, and its root.

        Not read once this run has a checkpoint of its own.
        """
        origin = run.spec and run.spec.origin
        if (
            origin is None
            or origin.run is None
            or origin.root is not None
            or alive is not None
            or run.deleting
            or run.status.checkpoint is not None
        ):
            return None, None
        source = await self.cluster.run(run.namespace, origin.run)
        root = root_of_run(source)
        return (parse_prerequisite(origin.run, source) if source is not None and root is None else None), root

    async def _prerequisites(self, run: RunView) -> tuple[Prerequisite, ...]:
        """The run of `spec.after` and the runs that it waits for itself; empty once this run has begun."""
        after = run.spec.after if run.spec is not None and run.status.attempt == 0 and not run.deleting else None
        chain: list[Prerequisite] = []
        name = after.run if after is not None else ""
        while name and name not in {run.name, *(other.name for other in chain)} and len(chain) < LONGEST_CHAIN:
            chain.append(parse_prerequisite(name, await self.cluster.run(run.namespace, name)))
            name = chain[-1].after
        return tuple(chain)

    async def _defaults(self, document: object, run: RunView) -> FoundDefaults:
        """The defaults that the run would take: from each namespace those with the wanted name, else those named
        `default`.
        """
        name, _ = wanted(document)
        places = (run.namespace, self.settings.defaults_namespace)
        namespaces = tuple(dict.fromkeys(filter(None, places))) if name else ()
        exact = await asyncio.gather(*(self.cluster.defaults(namespace, name) for namespace in namespaces))
        found = [
            document
            if document is not None or name == DEFAULT_NAME
            else await self.cluster.defaults(namespace, DEFAULT_NAME)
            for namespace, document in zip(namespaces, exact, strict=True)
        ]
        documents = tuple(document for document in found if document is not None)
        return FoundDefaults(name, namespaces, documents, any(document is not None for document in exact))

    async def _workload(self, run: RunView, alive: JobSetView | None, max_age_seconds: float) -> WorkloadReading | None:
        """The Workload of a run that a queue holds, or whose priority may change; None for any other run."""
        if self.workloads is None:
            return None
        if run.spec and run.spec.managed_by is not None:
            return await self.workloads.read(run.namespace, run.uid, max_age_seconds)
        if alive is None or not alive.queue or not (alive.suspended or self.settings.kueue.priority_boost):
            return None
        return await self.workloads.read(run.namespace, alive.uid, max_age_seconds)

    async def _report(self, run: RunView, pods: Pods, alive: JobSetView | None) -> ReportReading:
        if run.spec and alive and not run.deleting and (pod := first_process(pods, group_of(run.status, alive))):
            return await self.trainers.read((run.namespace, run.name), pod, trainer_port(run))
        return ReportReading()


def _pods_of(run: RunView, own: frozenset[str], seen: Iterable[SeenPod], role: Role) -> Pods:
    """The pods of a run with a role.

    Pods that have the run's labels but belong to no JobSet of the run are left out.
    """
    return tuple(pod.view for pod in seen if pod.role == role and is_own(pod.view, run, own))


def _owned(run: RunView, found: Iterable[SeenJobSet], role: Role) -> list[SeenJobSet]:
    return [one for one in found if one.role == role and run.uid and one.view.owner_uid == run.uid]


def _with_pods(run: RunView, found: Iterable[SeenJobSet], seen: Sequence[SeenPod], role: Role) -> tuple[ProbeView, ...]:
    own = [one.view for one in _owned(run, found, role)]
    return tuple(ProbeView(one, _pods_of(run, frozenset({one.uid}), seen, role)) for one in own)


def _planner(run: RunView, found: Iterable[SeenJobSet], seen: Iterable[SeenPod]) -> PlannerView | None:
    jobset = next(iter(_owned(run, found, "plan")), None)
    if jobset is None:
        return None
    own = frozenset({jobset.view.uid})
    pods = [pod for pod in seen if pod.role == "plan" and is_own(pod.view, run, own)]
    pods.sort(key=lambda pod: pod.view.ending is not None)  # after the living pod, those that it replaces
    answer = next((pod.plan for pod in pods if pod.plan is not None), None)
    return PlannerView(jobset.view, jobset.plan_hash, pods[0].view if pods else None, answer)


def _mounts(pod: PodView) -> bool:
    """Whether the volumes of a pod are not mounted yet."""
    return bool(pod.node) and pod.phase == "Pending" and not pod.running and pod.sandbox_ready is not True


def _at_work(run: RunView, jobset: JobSetView) -> bool:
    """Whether a JobSet belongs to the present attempt and has not ended."""
    return (
        jobset.owner_uid == run.uid
        and jobset.name == names.jobset_name(run.name, run.status.attempt)
        and jobset.outcome == "running"
        and not jobset.deleting
    )


def _writers(run: RunView, jobsets: tuple[JobSetView, ...], pods: Pods) -> Hashable:
    """The JobSets and pods that may write checkpoints. If they change, an older reading of HEAD may be out of date."""
    return (
        run.uid,
        run.status.attempt,
        frozenset((jobset.uid, jobset.restarts, jobset.outcome, jobset.deleting) for jobset in jobsets),
        frozenset((pod.uid, pod.over) for pod in pods),
    )


def _of_earlier_runs(run: RunView, seen: Iterable[SeenPod]) -> Pods:
    """Trainer pods with the run's name and the uid of another run."""
    pods = (pod.view for pod in seen if pod.role == "attempt")
    return tuple(pod for pod in pods if pod.controlled and pod.jobset_uid and pod.run_uid not in ("", run.uid))


async def _nothing() -> dict[str, Any] | None:
    return None
