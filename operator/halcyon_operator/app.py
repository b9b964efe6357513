"""The edge towards kopf: what is watched, and how the parts of the operator are put together and run.

Kopf keeps the watch streams open, through reconnects and expired credentials, and hands over every event. That is all that is asked of it:
only ``on.event`` handlers, which write nothing into the objects (no finalizers, no annotations, no progress), so a TrainingRun can be
deleted while no operator is there, and the operator can be removed from a cluster without a trace. Each handler puts the run in question
into the queue; a pod's ending is also noted in the journal, because the pod may be gone when the run is looked at.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import time
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import kopf
from prometheus_client import disable_created_metrics

from halcyon_api import names
from halcyon_api.training_run import GROUP, PLURAL, VERSION
from halcyon_operator.api_client import ApiError, connect, inside_cluster
from halcyon_operator.checkpoints import Checkpoints
from halcyon_operator.cluster import Cluster
from halcyon_operator.controller import Controller, Key
from halcyon_operator.health import WatchEcho
from halcyon_operator.http_server import HttpServer
from halcyon_operator.journal import Journal
from halcyon_operator.metrics import Metrics
from halcyon_operator.node_notices import NodeNotices
from halcyon_operator.observe import Observer
from halcyon_operator.plain import dig, mapping, text
from halcyon_operator.settings import Settings
from halcyon_operator.trainers import Trainers
from halcyon_operator.views import Platform
from halcyon_operator.work_queue import WorkQueue

logger = logging.getLogger(__name__)

JOBSET_GROUP, JOBSET_VERSION = "jobset.x-k8s.io", "v1alpha2"
LONGEST_START_DELAY_SECONDS = 15.0


async def run_operator(settings: Settings) -> None:
    """Run until a signal comes.

    Raises:
        NoCluster: There is no way to an API server.
        MissingApi: The cluster lacks a resource that must be installed first.
    """
    disable_created_metrics()  # One more series for each counter, which nobody asks for.
    metrics = Metrics(version("halcyon"))
    api = await connect(metrics)
    trainers = Trainers(metrics)
    checkpoints = Checkpoints(metrics, time.monotonic, settings.s3_endpoints, settings.s3_anonymous, settings.file_roots)
    queue: WorkQueue[Key] = WorkQueue(random.random)
    journal, echo = Journal(), WatchEcho(time.monotonic)
    metrics.watch(lambda: float(len(queue)), lambda: echo.lag_seconds)
    ready = asyncio.Event()
    server = HttpServer(metrics, alive=lambda: not echo.stuck, ready=ready.is_set)
    await server.start(settings.metrics_port)
    try:
        cluster = Cluster(api)
        await _wait_for_api(cluster)
        platform = Platform(settings.trainer_image, settings.cluster_domain, settings.probe_priority_class, settings.allow_gpu_direct)
        nodes = NodeNotices() if settings.watch_nodes else None
        observer = Observer(cluster, checkpoints, trainers, journal, platform, nodes)
        controller = Controller(
            queue, observer, cluster, journal, metrics, echo, socket.gethostname(), lambda: datetime.now(UTC), time.monotonic, trainers
        )
        loops = [controller.work() for _ in range(settings.workers)] + [controller.resync(settings.namespaces, settings.resync_seconds)]
        logger.info("looking after the TrainingRuns in %s", ", ".join(settings.namespaces) or "all namespaces")
        await _run_together(loops, handlers(queue, journal, echo, nodes), settings, ready)
    finally:
        queue.close()
        await trainers.close()
        await api.close()
        await server.stop()


def handlers(queue: WorkQueue[Key], journal: Journal, echo: WatchEcho, nodes: NodeNotices | None = None) -> kopf.OperatorRegistry:
    """What to do on each event. Nodes are watched only if there is somebody to tell of them."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    def login(**arguments: Any) -> kopf.ConnectionInfo | None:  # pyright: ignore[reportUnusedFunction]
        return kopf.login_with_service_account(**arguments) if inside_cluster() else kopf.login_with_kubeconfig(**arguments)

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def on_run(event: kopf.RawEvent, **_: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        metadata = dig(event, "object", "metadata")
        key = text(dig(metadata, "namespace")), text(dig(metadata, "name"))
        if event["type"] == "DELETED":
            echo.gone(key)
        elif echo.saw(key, dig(metadata, "resourceVersion")):
            return
        queue.add(key)

    @kopf.on.event(JOBSET_GROUP, JOBSET_VERSION, "jobsets", registry=registry)
    async def on_jobset(event: kopf.RawEvent, **_: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        if (key := run_of(event)) is not None:
            queue.add(key)

    @kopf.on.event("", "v1", "pods", registry=registry)
    async def on_pod(event: kopf.RawEvent, **_: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        if (key := run_of(event)) is not None:
            journal.record(key, event["object"])
            queue.add(key)

    if nodes is not None:

        @kopf.on.event("", "v1", "nodes", registry=registry)
        async def on_node(event: kopf.RawEvent, **_: Any) -> None:  # pyright: ignore[reportUnusedFunction]
            for key in nodes.saw(event["object"], deleted=event["type"] == "DELETED"):
                queue.add(key)

    return registry


def run_of(event: kopf.RawEvent) -> Key | None:
    """The run that an object belongs to, by its label."""
    metadata = mapping(dig(event, "object", "metadata"))
    namespace, run = text(metadata.get("namespace")), text(dig(metadata, "labels", names.LABEL_RUN))
    return (namespace, run) if namespace and run else None


def kopf_settings() -> kopf.OperatorSettings:
    """How kopf watches: without peers, without posting events of its own, and never longer on a silent stream than it must."""
    settings = kopf.OperatorSettings()
    settings.peering.standalone = True
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.process.ultimate_exiting_timeout = 20
    settings.queueing.exit_timeout = 1
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 10
    settings.watching.server_timeout = 600
    settings.watching.connect_timeout = 10
    settings.watching.inactivity_timeout = 70
    settings.watching.chunk_size = 500
    settings.watching.label_selectors[JOBSET_GROUP, JOBSET_VERSION, "jobsets"] = names.LABEL_RUN
    settings.watching.label_selectors["", "v1", "pods"] = names.LABEL_RUN
    return settings


async def _wait_for_api(cluster: Cluster) -> None:
    """Wait until the API server answers and serves what is needed."""
    delay = 0.5
    while True:
        try:
            await cluster.check()
            return
        except ApiError as error:
            delay = min(2 * delay, LONGEST_START_DELAY_SECONDS)
            logger.warning("%s; again in %.0f s", error, delay)
        await asyncio.sleep(delay)


async def _run_together(
    loops: Sequence[Coroutine[None, None, None]], registry: kopf.OperatorRegistry, settings: Settings, ready: asyncio.Event
) -> None:
    """Run kopf and the operator's own loops until kopf is told to stop, or until any of them fails."""
    own = [asyncio.create_task(loop) for loop in loops]
    watching = asyncio.create_task(
        kopf.operator(
            registry=registry,
            settings=kopf_settings(),
            standalone=True,
            clusterwide=not settings.namespaces,
            namespaces=settings.namespaces,
            ready_flag=ready,
        )
    )
    try:
        await asyncio.wait([watching, *own], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (watching, *own):
            task.cancel()
        results = await asyncio.gather(watching, *own, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
            raise result
