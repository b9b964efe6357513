"""``python -m halcyon_operator``: the operator's process."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterable
from typing import Annotated

import typer

from halcyon_api.hardware import TABLE
from halcyon_operator.kube.client import NoCluster
from halcyon_operator.kube.cluster import MissingApi
from halcyon_operator.model.pod_policy import InvalidPolicy, parse_policy
from halcyon_operator.objects.hardware import NO_MEMORY
from halcyon_operator.run.app import run_operator
from halcyon_operator.run.logs import set_up_logging
from halcyon_operator.run.settings import Settings

logger = logging.getLogger("halcyon_operator")
_AMOUNT = re.compile(r"[1-9][0-9]*(\.[0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)?")


def _many(values: list[str] | None) -> tuple[str, ...]:
    """Values of a repeated flag, or of a variable with a comma-separated list."""
    return tuple(part.strip() for value in values or () for part in value.split(",") if part.strip())


def amounts_by_type(pairs: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Parse ``TYPE=AMOUNT`` pairs.

    Raises:
        typer.BadParameter: The type or the amount is invalid.
    """
    found: list[tuple[str, str]] = []
    for pair in pairs:
        kind, _, amount = pair.partition("=")
        if kind not in TABLE:
            raise typer.BadParameter(f"there is no accelerator type {kind!r}; choose one of {', '.join(TABLE)}", param_hint="--pod-memory")
        if amount != NO_MEMORY and not _AMOUNT.fullmatch(amount):
            raise typer.BadParameter(f"{kind}={amount}: write an amount such as 64Gi, or {NO_MEMORY}", param_hint="--pod-memory")
        found.append((kind, amount))
    return tuple(found)


def main(
    trainer_image: Annotated[str, typer.Option(envvar="HALCYON_TRAINER_IMAGE", help="Image of runs that set none.")],
    namespace: Annotated[
        list[str] | None, typer.Option(envvar="HALCYON_NAMESPACES", help="Namespace to serve, may be repeated. Default: all.")
    ] = None,
    cluster_domain: Annotated[str, typer.Option(envvar="HALCYON_CLUSTER_DOMAIN", help="DNS domain of the cluster.")] = "cluster.local",
    log_level: Annotated[str, typer.Option(envvar="HALCYON_LOG_LEVEL", help="debug, info, warning or error.")] = "info",
    log_format: Annotated[str, typer.Option(envvar="HALCYON_LOG_FORMAT", help="json or text.")] = "json",
    metrics_port: Annotated[int, typer.Option(envvar="HALCYON_METRICS_PORT", help="Port of /metrics, /healthz and /readyz.")] = 9401,
    workers: Annotated[int, typer.Option(envvar="HALCYON_WORKERS", min=1, help="Runs reconciled at the same time.")] = 8,
    probe_priority_class: Annotated[
        str,
        typer.Option(envvar="HALCYON_PROBE_PRIORITY_CLASS", help="PriorityClass of pods that probe for room for more slices."),
    ] = "",
    s3_endpoint: Annotated[
        list[str] | None,
        typer.Option(envvar="HALCYON_S3_ENDPOINTS", help="S3 endpoint that runs may use, may be repeated. Default: none."),
    ] = None,
    s3_anonymous: Annotated[bool, typer.Option(envvar="HALCYON_S3_ANONYMOUS", help="Send unsigned S3 requests.")] = False,
    file_root: Annotated[
        list[str] | None,
        typer.Option(envvar="HALCYON_FILE_ROOTS", help="Directory mounted here under which file:// roots are read, may be repeated."),
    ] = None,
    allow_gpu_direct: Annotated[
        bool,
        typer.Option(envvar="HALCYON_ALLOW_GPU_DIRECT", help="Allow runs with network gpuDirect, which get directories of their node."),
    ] = False,
    trainer_pods: Annotated[
        str,
        typer.Option(envvar="HALCYON_TRAINER_PODS", help="The owner's settings for the pods of runs: the chart's `trainerPods` as JSON."),
    ] = "",
    pod_memory: Annotated[
        list[str] | None,
        typer.Option(
            envvar="HALCYON_POD_MEMORY",
            help="TYPE=AMOUNT: memory of the pods of an accelerator type if a run sets none, may be repeated; none: no memory.",
        ),
    ] = None,
    stuck_pod_seconds: Annotated[
        float,
        typer.Option(envvar="HALCYON_STUCK_POD_SECONDS", min=0, help="Seconds after its grace period from which a pod counts as stuck."),
    ] = 300.0,
    force_delete_stuck_pods: Annotated[
        bool, typer.Option(envvar="HALCYON_FORCE_DELETE_STUCK_PODS", help="Delete stuck pods by force, so that runs continue.")
    ] = False,
    watch_nodes: Annotated[
        bool,
        typer.Option(envvar="HALCYON_WATCH_NODES", help="Save at a maintenance notice of a run's node; needs the right to watch nodes."),
    ] = False,
    defaults_namespace: Annotated[
        str,
        typer.Option(envvar="HALCYON_DEFAULTS_NAMESPACE", help="Namespace of the TrainingRunDefaults for all namespaces. Default: none."),
    ] = "",
    kueue: Annotated[
        bool,
        typer.Option(envvar="HALCYON_KUEUE", help="Let runs use Kueue queues, and show why they wait; needs the right to list Workloads."),
    ] = False,
    lease_namespace: Annotated[
        str,
        typer.Option(
            envvar="HALCYON_LEASE_NAMESPACE", help="Namespace of the Lease for leader election among several operators. Default: none."
        ),
    ] = "",
    lease_name: Annotated[str, typer.Option(envvar="HALCYON_LEASE_NAME", help="Name of that Lease.")] = "halcyon-operator",
    pod_name: Annotated[str, typer.Option(envvar="HALCYON_POD_NAME", help="Name of the operator's pod, its identity in the Lease.")] = "",
) -> None:
    """Reconcile the TrainingRuns of a cluster."""
    if log_level not in ("debug", "info", "warning", "error"):
        raise typer.BadParameter("choose debug, info, warning or error", param_hint="--log-level")
    if log_format not in ("json", "text"):
        raise typer.BadParameter("choose json or text", param_hint="--log-format")
    set_up_logging(log_level, log_format)
    try:
        pods = parse_policy(trainer_pods)
    except InvalidPolicy as error:
        logger.error("%s", error)
        raise typer.Exit(1) from None
    settings = Settings(
        trainer_image=trainer_image,
        namespaces=_many(namespace),
        cluster_domain=cluster_domain,
        metrics_port=metrics_port,
        workers=workers,
        probe_priority_class=probe_priority_class,
        s3_endpoints=_many(s3_endpoint),
        s3_anonymous=s3_anonymous,
        file_roots=_many(file_root),
        allow_gpu_direct=allow_gpu_direct,
        pods=pods,
        pod_memory=amounts_by_type(_many(pod_memory)),
        stuck_pod_seconds=stuck_pod_seconds,
        force_delete_stuck_pods=force_delete_stuck_pods,
        watch_nodes=watch_nodes,
        defaults_namespace=defaults_namespace,
        kueue=kueue,
        lease_namespace=lease_namespace,
        lease_name=lease_name,
        pod_name=pod_name,
    )
    try:
        asyncio.run(run_operator(settings))
    except (NoCluster, MissingApi) as error:
        logger.error("%s", error)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    typer.run(main)
