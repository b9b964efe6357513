"""Connects the operator to kopf: defines the watched kinds, and builds and runs the parts of the operator.

Kopf keeps the watch streams open, through reconnects and expired credentials, and delivers every event. Only
``on.event`` handlers are used. They write nothing into the objects (no finalizers, annotations or progress), so a
TrainingRun can be deleted while no operator runs, and the removed operator leaves nothing behind in the cluster. Each
handler puts the run into the queue; the ending of a pod is also recorded in `PodEndings`, because the pod may be
deleted before the next reconcile."""

import asyncio
import logging
import random
import signal
import time
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime
from typing import Any

import kopf
from prometheus_client import disable_created_metrics

from halcyon_api import names
from halcyon_api.package import version
from halcyon_api.status.run_status import AT_REST
from halcyon_api.training_run import GROUP, PLURAL, VERSION
from halcyon_operator.kube.client import ApiError, connect, inside_cluster
from halcyon_operator.kube.cluster import Cluster
from halcyon_operator.kube.leadership import Leadership, process_identity
from halcyon_operator.kube.tasks import cancelled
from halcyon_operator.model.settings import Settings
from halcyon_operator.model.untrusted import mapping, text, value_at
from halcyon_operator.model.views import RunKey
from halcyon_operator.observe.checkpoints import Checkpoints
from halcyon_operator.observe.head_reads import HeadReads
from halcyon_operator.observe.memory import PodEndings
from halcyon_operator.observe.node_notices import NodeNotices
from halcyon_operator.observe.observer import Observer
from halcyon_operator.observe.pod_events import PodEvents
from halcyon_operator.observe.trainers import Polls, Trainers
from halcyon_operator.observe.watch_cache import SeenPod, WatchCache
from halcyon_operator.observe.workloads import Workloads
from halcyon_operator.run.controller import Controller
from halcyon_operator.run.health import Supervision, WatchAudit, WriteWatch, health_problem
from halcyon_operator.run.metrics import HttpServer, Metrics
from halcyon_operator.run.served_namespaces import other_namespaces, served_namespaces
from halcyon_operator.run.work_queue import WorkQueue

logger = logging.getLogger(__name__)

FEW_PODS = 64
"""A run with at most this number of pods is reconciled as soon as one of them changes."""
PODS_A_SECOND = 1024
LONGEST_POD_PAUSE_SECONDS = 4.0

JOBSET_GROUP, JOBSET_VERSION = "jobset.x-k8s.io", "v1alpha2"
LONGEST_START_DELAY_SECONDS = 15.0
RESYNC_SECONDS = 300.0
"""Seconds between two reconciles of all runs without an event."""
ROUTINE_RECONCILES_PER_SECOND = 25.0
"""Maximum rate of routine reconciles and progress writes per second, over all runs."""


async def run_operator(settings: Settings, pod_name: str) -> None:
    """Run until a signal comes.

    Args:
        settings: The operator's settings.
        pod_name: Name of the pod of this process, its identity in the Lease; empty: it is not in a pod.

    Raises:
        NoCluster: No API server is configured.
        MissingApi: A resource that the operator needs is not installed in the cluster.
    """
    disable_created_metrics()  # They add one series for each counter, and are not used.
    metrics = Metrics(version())
    identity = process_identity(pod_name)
    api = await connect(metrics.api_requests, f"halcyon-operator/{version()} ({identity})")
    trainers = Trainers(metrics.trainer_polls)
    checkpoints = Checkpoints(metrics.head_reads, settings.object_store.s3.endpoints)
    queue: WorkQueue[RunKey] = WorkQueue(random.random, group=lambda key: key[0])
    polls = Polls(trainers, queue.add, time.monotonic)
    heads = HeadReads(checkpoints, queue.add, time.monotonic)
    pod_endings, echo, cache = PodEndings(), WriteWatch(time.monotonic), WatchCache()
    audit = WatchAudit(cache.version, time.monotonic)
    lease = settings.lease
    leadership = Leadership(api, lease.namespace, lease.name, identity) if lease.namespace else None
    cluster = Cluster(api)
    nodes = NodeNotices() if settings.watch_nodes else None
    workloads = Workloads(cluster, time.monotonic) if settings.kueue.enabled else None
    warnings = PodEvents(cluster, queue.add, lambda: datetime.now(UTC), time.monotonic)
    observer = Observer(
        cluster,
        heads,
        polls,
        pod_endings,
        settings,
        nodes,
        cache=cache,
        pace=lambda: cache.under_way / ROUTINE_RECONCILES_PER_SECOND,
        workloads=workloads,
        warnings=warnings,
    )
    controller = Controller(
        queue,
        observer,
        cluster,
        pod_endings,
        metrics,
        echo,
        identity,
        lambda: datetime.now(UTC),
        time.monotonic,
        trainers,
    )
    if leadership is not None:
        api.fence(lambda: leadership.seconds_left)

    def leads() -> bool:
        return leadership is None or leadership.leads

    metrics.watch(
        lambda: float(len(queue)) if leads() else 0.0, lambda: max(echo.lag_seconds, audit.lag_seconds), leads
    )
    ready = asyncio.Event()
    server = HttpServer(
        metrics, lambda: health_problem(echo, audit, controller.longest_reconcile_seconds), ready.is_set
    )
    await server.start(settings.metrics.port)

    async def lead() -> None:
        """Work until this process loses the Lease."""
        try:
            # The previous leader handled the earlier events, so reconcile every run once to find the next actions.
            controller.begin(cache.keys())
            await asyncio.gather(*(controller.work() for _ in range(settings.workers)))
        finally:
            controller.stop_managing()

    async def stand_by() -> None:
        """Lead when this process holds the Lease, but not before its watch cache is full."""
        await ready.wait()
        await (lead() if leadership is None else leadership.campaign(lead))

    try:
        served = await _wait_for_api(cluster, settings.namespaces)
        supervision = Supervision(cluster, served, audit, cache.keys, controller.check)
        loops = [supervision.run(ready, RESYNC_SECONDS), stand_by()]
        if served:
            loops.append(other_namespaces(cluster, settings.namespaces, served))
        logger.info("reconciling the TrainingRuns in %s", ", ".join(served) or "all namespaces")
        await _run_together(loops, handlers(queue, pod_endings, echo, cache, nodes), served)
    finally:
        queue.close()
        await heads.close()
        await polls.close()
        await warnings.close()
        await trainers.close()
        await api.close()
        await server.stop()


def handlers(
    queue: WorkQueue[RunKey],
    pod_endings: PodEndings,
    echo: WriteWatch,
    cache: WatchCache,
    nodes: NodeNotices | None = None,
) -> kopf.OperatorRegistry:
    """The handlers of all watched kinds. Nodes are watched only if `nodes` is given."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    def login(**arguments: Any) -> kopf.ConnectionInfo | None:  # pyright: ignore[reportUnusedFunction]
        return (
            kopf.login_with_service_account(**arguments)
            if inside_cluster()
            else kopf.login_with_kubeconfig(**arguments)
        )

    def enqueue_dependents(key: RunKey) -> None:
        """Reconcile the runs that wait for this one."""
        run = cache.run(key)
        if run and run.status.phase in AT_REST:
            for waiting in cache.waiting_for(key):
                queue.add(waiting)

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def on_run(event: kopf.RawEvent, **_: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        metadata = value_at(event, "object", "metadata")
        key = text(value_at(metadata, "namespace")), text(value_at(metadata, "name"))
        cache.saw_run(event["object"], deleted=event["type"] == "DELETED")
        if (run := cache.run(key)) is not None:
            # A recorded conclusion needs no evidence any more.
            pod_endings.prune(key, run.status.attempt, run.status.job_set_restarts)
        if event["type"] == "DELETED":
            echo.gone(key)
            pod_endings.forget(key)
        elif echo.saw(key, value_at(metadata, "resourceVersion")):
            enqueue_dependents(key)
            return
        enqueue_dependents(key)
        queue.add(key)

    @kopf.on.event(JOBSET_GROUP, JOBSET_VERSION, "jobsets", registry=registry)
    async def on_jobset(event: kopf.RawEvent, **_: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        if (key := run_of(event)) is not None:
            cache.saw_jobset(key, event["object"], deleted=event["type"] == "DELETED")
            queue.add(key)

    @kopf.on.event("", "v1", "pods", registry=registry)
    async def on_pod(event: kopf.RawEvent, **_: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        if (key := run_of(event)) is not None:
            pod = SeenPod(event["object"])
            cache.saw_pod(key, pod, deleted=event["type"] == "DELETED")
            pod_endings.record(key, pod.view)
            queue.add_after(key, pause_after_pod(cache.pod_count(key)))

    if nodes is not None:

        @kopf.on.event("", "v1", "nodes", registry=registry)
        async def on_node(event: kopf.RawEvent, **_: Any) -> None:  # pyright: ignore[reportUnusedFunction]
            for key in nodes.saw(event["object"], deleted=event["type"] == "DELETED"):
                queue.add(key)

    return registry


def pause_after_pod(pods: int) -> float:
    """Seconds from a change of a pod to the reconcile of its run. With many pods a reconcile takes long, and they
    change one by one.

    Args:
        pods: Number of the run's pods.
    """
    return min(LONGEST_POD_PAUSE_SECONDS, pods / PODS_A_SECOND) if pods > FEW_PODS else 0.0


def run_of(event: kopf.RawEvent) -> RunKey | None:
    """The run that an object belongs to, by its label."""
    metadata = mapping(value_at(event, "object", "metadata"))
    namespace, run = text(metadata.get("namespace")), text(value_at(metadata, "labels", names.LABEL_RUN))
    return (namespace, run) if namespace and run else None


def kopf_settings() -> kopf.OperatorSettings:
    """Settings of kopf: no peering, no events of its own, and short timeouts for silent watch streams."""
    settings = kopf.OperatorSettings()
    settings.peering.standalone = True
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.process.ultimate_exiting_timeout = 20
    settings.queueing.exit_timeout = 1
    # Kopf keeps the last document of each object for this time. With thousands of starting pods these use most of the
    # memory.
    settings.queueing.idle_timeout = 0.5
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 10
    settings.watching.server_timeout = 600
    settings.watching.connect_timeout = 10
    settings.watching.inactivity_timeout = 70
    settings.watching.chunk_size = 500
    settings.watching.label_selectors[JOBSET_GROUP, JOBSET_VERSION, "jobsets"] = names.LABEL_RUN
    settings.watching.label_selectors["", "v1", "pods"] = names.LABEL_RUN
    return settings


async def _wait_for_api(cluster: Cluster, namespaces: tuple[str, ...]) -> tuple[str, ...]:
    """Wait until the API server answers and serves the needed resources. Returns the namespaces that can be served."""
    delay = 0.5
    while True:
        try:
            await cluster.check()
            return await served_namespaces(cluster, namespaces)
        except ApiError as error:
            delay = min(2 * delay, LONGEST_START_DELAY_SECONDS)
            logger.warning("%s; again in %.0f s", error, delay)
        await asyncio.sleep(delay)


async def _run_together(
    loops: Sequence[Coroutine[None, None, None]], registry: kopf.OperatorRegistry, namespaces: tuple[str, ...]
) -> None:
    """Run kopf and the operator's own loops until a signal comes, or until any of them fails.

    At a signal the operator's own loops end first, so that the Lease is released at once; kopf needs longer.
    """
    stopping = asyncio.Event()
    signalled = asyncio.create_task(stopping.wait())
    own = [asyncio.create_task(loop) for loop in loops]
    # Kopf treats every later task as its own and waits for it at the end.
    ignored = asyncio.all_tasks()
    watching: asyncio.Task[None] | None = None
    try:
        tasks = await kopf.spawn_tasks(
            registry=registry,
            settings=kopf_settings(),
            standalone=True,
            clusterwide=not namespaces,
            namespaces=namespaces,
        )
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        watching = asyncio.create_task(kopf.run_tasks(tasks, ignored=ignored))
        await asyncio.wait([watching, signalled, *own], return_when=asyncio.FIRST_COMPLETED)
    finally:
        ended = await cancelled([signalled, *own]) + await cancelled([watching])
    for result in ended:
        if result is not None and not isinstance(result, asyncio.CancelledError):
            raise result
