"""Parses a pod document of the API server into a `PodView` with its ending.

A pod's end has up to three signs: the API server marks it for a disruption, a client deletes it, or its process ends.
The earliest one is the reason: an evicted pod is deleted later and its process ends too, and a crashed pod is deleted
afterwards."""

from __future__ import annotations

from datetime import datetime, timedelta
from ipaddress import ip_address

from pydantic import ValidationError

from halcyon_api import names
from halcyon_api.environment import SAVE_TOKEN
from halcyon_api.status.progress import TERMINATION_MESSAGE_LIMIT, Progress, TerminationReport
from halcyon_operator.model.endings import TROUBLE_RANKS, UNKNOWN_TIME
from halcyon_operator.model.untrusted import (
    LARGEST_EXACT,
    conditions_of,
    count,
    holds,
    integer,
    mapping,
    mappings,
    moment,
    sequence,
    text,
    value_at,
)
from halcyon_operator.model.views import EndKind, PodEnding, PodView, ProcessGroup, ProcessIndex

_MAX_GRACE_SECONDS = 31_536_000
_FINALIZER_OF_JOBS = "batch.kubernetes.io/job-tracking"


def parse_pod(document: object) -> PodView:
    """The view of a trainer pod. Never raises."""
    metadata = mapping(value_at(document, "metadata"))
    status = mapping(value_at(document, "status"))
    container = _trainer(status.get("containerStatuses"))
    reason, message = _waiting(status, container)
    return PodView(
        name=text(metadata.get("name")),
        uid=text(metadata.get("uid")),
        group=_group(metadata),
        process=_process(metadata),
        phase=text(status.get("phase")),
        ip=_ip(status.get("podIP")),
        node=text(value_at(document, "spec", "nodeName")),
        deleting=metadata.get("deletionTimestamp") is not None,
        running="running" in mapping(container.get("state")),
        waiting_reason=reason,
        waiting_message=message,
        ending=_ending(metadata, status, container, text(value_at(document, "spec", "nodeName"))),
        grace_seconds=float(min(count(metadata.get("deletionGracePeriodSeconds")), _MAX_GRACE_SECONDS)),
        finalizers=_finalizers(metadata),
        other_containers=_others(status),
        created_at=moment(metadata.get("creationTimestamp")),
        scheduled_at=_scheduled_at(status),
        gone_by=moment(metadata.get("deletionTimestamp")),
        deleted_by_force=metadata.get("deletionTimestamp") is not None
        and metadata.get("deletionGracePeriodSeconds") == 0,
        sandbox_ready=_sandbox_ready(status),
        save_token=_save_token(document),
        run_uid=text(value_at(metadata, "labels", names.LABEL_RUN_UID)),
        jobset_uid=text(value_at(metadata, "labels", names.JOBSET_UID_LABEL)),
        job_uid=_job_uid(metadata),
    )


def termination_message(document: object) -> object:
    """What the trainer's container wrote into its termination log; untrusted."""
    container = _trainer(value_at(document, "status", "containerStatuses"))
    return value_at(container, "state", "terminated", "message")


def _job_uid(metadata: dict[str, object]) -> str:
    """Uid of the Job that controls the pod; empty: none does."""
    owners = mappings(metadata.get("ownerReferences"))
    jobs = (owner for owner in owners if owner.get("controller") is True and owner.get("kind") == "Job")
    return next((text(owner.get("uid")) for owner in jobs), "")


def _finalizers(metadata: dict[str, object]) -> tuple[str, ...]:
    names_found = (text(one, 253) for one in sequence(metadata.get("finalizers")))
    return tuple(name for name in names_found if name and name != _FINALIZER_OF_JOBS)


def _ip(value: object) -> str:
    """The pod's address, for requests.

    Names and link-local addresses (such as a machine's metadata server) are rejected.
    """
    try:
        address = ip_address(text(value, 64))
    except ValueError:
        return ""
    return "" if address.is_link_local or address.is_multicast or address.is_unspecified else str(address)


def _save_token(document: object) -> str:
    variables = mappings(_trainer(value_at(document, "spec", "containers")).get("env"))
    return next((text(entry.get("value"), 256) for entry in variables if entry.get("name") == SAVE_TOKEN), "")


def _group(metadata: dict[str, object]) -> ProcessGroup:
    labels = mapping(metadata.get("labels"))
    return ProcessGroup(count(labels.get(names.LABEL_ATTEMPT)), count(labels.get(names.JOBSET_RESTART)))


def _process(metadata: dict[str, object]) -> ProcessIndex:
    labels = mapping(metadata.get("labels"))
    return ProcessIndex(count(labels.get(names.JOBSET_JOB_INDEX)), count(labels.get(names.JOB_COMPLETION_INDEX)))


def _trainer(containers: object) -> dict[str, object]:
    """The trainer's entry of a list of containers or of their statuses."""
    return next(
        (entry for entry in mappings(containers) if entry.get("name") == names.TRAINER_CONTAINER), mapping(None)
    )


def _others(status: dict[str, object]) -> tuple[str, ...]:
    """Names of containers that run beside the trainer. Native sidecars are init containers, and end after it."""
    statuses = mappings(status.get("containerStatuses"))
    running = [text(entry.get("name"), 63) for entry in statuses if "running" in mapping(entry.get("state"))]
    return tuple(name for name in running if name and name != names.TRAINER_CONTAINER)


def _waiting(status: dict[str, object], container: dict[str, object]) -> tuple[str, str]:
    """Reason and message from the kubelet or the scheduler why the pod does not run yet."""
    waiting = mapping(value_at(container, "state", "waiting"))
    if waiting:
        return text(waiting.get("reason"), 64), text(waiting.get("message"))
    scheduled = conditions_of(status).get("PodScheduled", {})
    if scheduled.get("status") == "False":
        return text(scheduled.get("reason"), 64), text(scheduled.get("message"))
    return "", ""


def _scheduled_at(status: dict[str, object]) -> datetime | None:
    scheduled = conditions_of(status).get("PodScheduled", {})
    return moment(scheduled.get("lastTransitionTime")) if holds(scheduled) else None


def _sandbox_ready(status: dict[str, object]) -> bool | None:
    ready = conditions_of(status).get("PodReadyToStartContainers")
    return None if ready is None else holds(ready)


def _ending(
    metadata: dict[str, object], status: dict[str, object], container: dict[str, object], node: str
) -> PodEnding | None:
    terminated = mapping(value_at(container, "state", "terminated"))
    ended = bool(terminated) or status.get("phase") in ("Failed", "Succeeded")
    troubles = _troubles(metadata, status, terminated, ended)
    if not troubles:
        return None
    at, _, trouble, message = min(troubles)
    group = _group(metadata)
    exit_code = integer(terminated.get("exitCode"))
    return PodEnding(
        uid=text(metadata.get("uid")),
        name=text(metadata.get("name")),
        run_uid=text(value_at(metadata, "labels", names.LABEL_RUN_UID)),
        group=group,
        process=_process(metadata),
        trouble=trouble,
        at=at,
        ended=ended,
        exit_code=exit_code if exit_code is not None and 0 <= exit_code <= 255 else None,
        report=_report(terminated.get("message"), group),
        message=message,
        evicted=(text(status.get("message")) or "Evicted") if status.get("reason") == "Evicted" else "",
        node=node,
        ran=moment(terminated.get("finishedAt")) is not None,
        jobset_uid=text(value_at(metadata, "labels", names.JOBSET_UID_LABEL)),
        controlled=bool(_job_uid(metadata)),
    )


def _troubles(
    metadata: dict[str, object], status: dict[str, object], terminated: dict[str, object], ended: bool
) -> list[tuple[datetime, int, EndKind, str]]:
    """All troubles of a pod: time, rank, kind and message."""
    found: list[tuple[datetime, int, EndKind, str]] = []

    def add(trouble: EndKind, at: datetime | None, *parts: object) -> None:
        words = ": ".join(word for word in map(text, parts) if word)
        found.append((at or UNKNOWN_TIME, TROUBLE_RANKS[trouble], trouble, words))

    disruption = conditions_of(status).get("DisruptionTarget", {})
    if holds(disruption):
        at = moment(disruption.get("lastTransitionTime"))
        add("disrupted", at, disruption.get("reason"), disruption.get("message"))
    if (gone_at := moment(metadata.get("deletionTimestamp"))) is not None:
        # The timestamp is the end of the grace period; the deletion was requested before it.
        add(
            "deleted",
            gone_at - timedelta(seconds=min(count(metadata.get("deletionGracePeriodSeconds")), _MAX_GRACE_SECONDS)),
        )
    if ended:
        report = _report(terminated.get("message"), _group(metadata))
        parts = (report.message,) if report else (terminated.get("reason"), terminated.get("message"))
        add(
            "exited",
            moment(terminated.get("finishedAt")),
            *(parts if terminated else (status.get("reason"), status.get("message"))),
        )
    return found


def _report(message: object, group: ProcessGroup) -> TerminationReport | None:
    """The trainer's termination report, unless it is damaged or of another process group."""
    if not isinstance(message, str) or len(message) > TERMINATION_MESSAGE_LIMIT:
        return None
    try:
        report = TerminationReport.model_validate_json(message, by_alias=True, by_name=False)
    except ValidationError:
        return None
    progress = report.progress or Progress()
    claims = (report.step, report.checkpoint_step or 0, report.epoch_attempt or 0, *progress.counts)
    return report if report.attempt in (0, group.attempt) and max(claims) <= LARGEST_EXACT else None
