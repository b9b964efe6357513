"""Parses a pod document of the API server into a `PodView` with its ending.

A pod's end has up to three signs: the API server marks it for a disruption, a client deletes it, or its process ends.
The earliest one is the reason: an evicted pod is deleted later and its process ends too, and a crashed pod is deleted
afterwards.

Not every end is the program's. A kubelet that ends a pod gives the reason in the pod's status, and no other end has
one: it rejects a pod that its node cannot take (``OutOfmemory``, ``NodeAffinity``), or ends it with its node
(``Terminated``). A container that the runtime cannot start, or has lost, has its reason in the container's status."""

from dataclasses import replace
from datetime import datetime, timedelta
from ipaddress import ip_address

from pydantic import ValidationError

from halcyon_api import names
from halcyon_api.environment import SAVE_TOKEN
from halcyon_api.status.progress import TERMINATION_MESSAGE_LIMIT, Progress, TerminationReport
from halcyon_operator.model.endings import TROUBLE_RANKS, UNKNOWN_TIME
from halcyon_operator.model.untrusted import (
    LARGEST_EXACT,
    Members,
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
_NOT_STARTED = (
    "StartError",
    "ContainerCannotRun",
    "RunContainerError",
    "CreateContainerError",
    "CreateContainerConfigError",
)
"""Reasons of the kubelet and the runtime for a container whose process never began."""
_LOST = ("ContainerStatusUnknown", "Unknown")
"""Reasons of the kubelet and the runtime for a container that they lost, mostly by a restart of the node."""
_OF_THE_POD = ("Evicted", "DeadlineExceeded")
"""Reasons of the kubelet for the end of a pod that has used more than it may."""
_FINALIZER_OF_JOBS = "batch.kubernetes.io/job-tracking"


def parse_pod(document: object) -> PodView:
    """The view of a trainer pod. Never raises."""
    metadata = mapping(value_at(document, "metadata"))
    status = mapping(value_at(document, "status"))
    labels = mapping(metadata.get("labels"))
    container = _trainer(status.get("containerStatuses"))
    waiting_for, reason, message = _waiting(document, status, container)
    pod = PodView(
        name=text(metadata.get("name")),
        uid=text(metadata.get("uid")),
        group=ProcessGroup(count(labels.get(names.LABEL_ATTEMPT)), count(labels.get(names.JOBSET_RESTART))),
        process=ProcessIndex(count(labels.get(names.JOBSET_JOB_INDEX)), count(labels.get(names.JOB_COMPLETION_INDEX))),
        phase=text(status.get("phase")),
        ip=_ip(status.get("podIP")),
        node=text(value_at(document, "spec", "nodeName")),
        deleting=metadata.get("deletionTimestamp") is not None,
        running="running" in mapping(container.get("state")),
        waiting_reason=reason,
        waiting_message=message,
        waiting_for=waiting_for,
        ending=None,
        grace_seconds=float(min(count(metadata.get("deletionGracePeriodSeconds")), _MAX_GRACE_SECONDS)),
        finalizers=_finalizers(metadata),
        other_containers=_others(status),
        created_at=moment(metadata.get("creationTimestamp")),
        scheduled_at=_scheduled_at(status),
        started_at=min(_container_times(status, "startedAt"), default=None),
        finished_at=max(_container_times(status, "finishedAt"), default=None),
        gone_by=moment(metadata.get("deletionTimestamp")),
        sandbox_ready=_sandbox_ready(status),
        save_token=_save_token(document),
        run_uid=text(labels.get(names.LABEL_RUN_UID)),
        jobset_uid=text(labels.get(names.JOBSET_UID_LABEL)),
        job_uid=_job_uid(metadata),
    )
    return replace(pod, ending=_ending(document, pod, container))


def termination_message(document: object) -> object:
    """What the trainer's container wrote into its termination log; untrusted."""
    container = _trainer(value_at(document, "status", "containerStatuses"))
    return value_at(container, "state", "terminated", "message")


def _job_uid(metadata: Members) -> str:
    """Uid of the Job that controls the pod; empty: none does."""
    owners = mappings(metadata.get("ownerReferences"))
    jobs = (owner for owner in owners if owner.get("controller") is True and owner.get("kind") == "Job")
    return next((text(owner.get("uid")) for owner in jobs), "")


def _finalizers(metadata: Members) -> tuple[str, ...]:
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


def _trainer(containers: object) -> Members:
    """The trainer's entry of a list of containers or of their statuses."""
    return next(
        (entry for entry in mappings(containers) if entry.get("name") == names.TRAINER_CONTAINER), mapping(None)
    )


def _others(status: Members) -> tuple[str, ...]:
    """Names of containers that run beside the trainer. Native sidecars are init containers, and end after it."""
    statuses = mappings(status.get("containerStatuses"))
    running = [text(entry.get("name"), 63) for entry in statuses if "running" in mapping(entry.get("state"))]
    return tuple(name for name in running if name and name != names.TRAINER_CONTAINER)


def _waiting(document: object, status: Members, container: Members) -> tuple[str, str, str]:
    """Init container, reason and message from the kubelet or the scheduler why the pod does not run yet."""
    waiting = mapping(value_at(container, "state", "waiting"))
    if waiting:
        first = _init_container(document)
        waiting = mapping(value_at(first, "state", "waiting")) or waiting
        return text(value_at(first, "name"), 63), text(waiting.get("reason"), 64), text(waiting.get("message"))
    scheduled = conditions_of(status).get("PodScheduled", {})
    if scheduled.get("status") == "False":
        return "", text(scheduled.get("reason"), 64), text(scheduled.get("message"))
    return "", "", ""


def _init_container(document: object) -> Members:
    """Status of the first init container that has neither ended with 0 nor, as a native sidecar, started."""
    containers = mappings(value_at(document, "spec", "initContainers"))
    sidecars = [entry.get("name") for entry in containers if entry.get("restartPolicy") == "Always"]
    return next(
        (
            entry
            for entry in mappings(value_at(document, "status", "initContainerStatuses"))
            if value_at(entry, "state", "terminated", "exitCode") != 0
            and not (entry.get("name") in sidecars and entry.get("started") is True)
        ),
        mapping(None),
    )


def _scheduled_at(status: Members) -> datetime | None:
    scheduled = conditions_of(status).get("PodScheduled", {})
    return moment(scheduled.get("lastTransitionTime")) if holds(scheduled) else None


def _container_times(status: Members, name: str) -> list[datetime]:
    """The times of one name in the states of the containers."""
    states = (mapping(one.get("state")) for one in mappings(status.get("containerStatuses")))
    times = (moment(value_at(state, name)) for found in states for state in found.values())
    return [at for at in times if at is not None]


def _sandbox_ready(status: Members) -> bool | None:
    ready = conditions_of(status).get("PodReadyToStartContainers")
    return None if ready is None else holds(ready)


def _ending(document: object, pod: PodView, container: Members) -> PodEnding | None:
    status = mapping(value_at(document, "status"))
    terminated = mapping(value_at(container, "state", "terminated"))
    ended = bool(terminated) or pod.phase in ("Failed", "Succeeded")
    troubles = _troubles(document, pod, terminated, ended)
    if not troubles:
        return None
    at, _, trouble, message = min(troubles)
    exit_code = integer(terminated.get("exitCode"))
    return PodEnding(
        uid=pod.uid,
        name=pod.name,
        run_uid=pod.run_uid,
        group=pod.group,
        process=pod.process,
        trouble=trouble,
        at=at,
        ended=ended,
        exit_code=exit_code if exit_code is not None and 0 <= exit_code <= 255 else None,
        report=parse_termination(terminated.get("message"), pod.group),
        message=message,
        evicted=(text(status.get("message")) or "Evicted")
        if status.get("reason") == "Evicted" and trouble != "rejected"
        else "",
        node=pod.node,
        ran=moment(terminated.get("finishedAt")) is not None and trouble != "rejected",
        jobset_uid=pod.jobset_uid,
        controlled=bool(pod.job_uid),
    )


def _troubles(
    document: object, pod: PodView, terminated: Members, ended: bool
) -> list[tuple[datetime, int, EndKind, str]]:
    """All troubles of a pod: time, rank, kind and message."""
    status = mapping(value_at(document, "status"))
    found: list[tuple[datetime, int, EndKind, str]] = []

    def add(trouble: EndKind, at: datetime | None, *parts: object) -> None:
        words = ": ".join(word for word in map(text, parts) if word)
        found.append((at or UNKNOWN_TIME, TROUBLE_RANKS[trouble], trouble, words))

    disruption = conditions_of(status).get("DisruptionTarget", {})
    if holds(disruption):
        at = moment(disruption.get("lastTransitionTime"))
        add("disrupted", at, disruption.get("reason"), disruption.get("message"))
    if pod.gone_by is not None:
        # The end of the grace period; the deletion was requested before it.
        add("deleted", pod.gone_by - timedelta(seconds=pod.grace_seconds))
    if not ended:
        return found
    at = moment(terminated.get("finishedAt")) or _unready_at(status)
    by_node = status.get("reason"), status.get("message")
    by_runtime = terminated.get("reason"), terminated.get("message")
    created = bool(terminated) or pod.running
    if by_node[0] and by_node[0] != "DeadlineExceeded" and not created:
        add("rejected", moment(status.get("startTime")) or pod.created_at, *by_node)
    elif by_runtime[0] in _NOT_STARTED:
        add("rejected", at, *by_runtime)
    elif by_node[0] and by_node[0] not in _OF_THE_POD:
        add("disrupted", at, *by_node)
    elif by_runtime[0] in _LOST and (at or pod.gone_by is None):
        # A pod that was deleted before its container was created has the same reason, and no time.
        add("disrupted", at, *by_runtime)
    elif terminated:
        report = parse_termination(terminated.get("message"), pod.group)
        add("exited", at, *((report.message,) if report else by_runtime))
    else:
        first = _init_container(document)
        last = mapping(value_at(first, "state", "terminated"))
        init = f"init container {text(first.get('name'), 63)}" if first else ""
        add("exited", moment(last.get("finishedAt")), *by_node, init, last.get("reason"), last.get("message"))
    return found


def _unready_at(status: Members) -> datetime | None:
    """When a pod that was ready became unready; None: it never was ready, or is ready."""
    ready = conditions_of(status).get("Ready", {})
    at, started = moment(ready.get("lastTransitionTime")), moment(status.get("startTime"))
    before = holds(ready) or at is None or started is None or (at - started).total_seconds() <= 1
    return None if before else at


def parse_termination(message: object, group: ProcessGroup) -> TerminationReport | None:
    """The trainer's termination report, unless it is damaged or of another process group."""
    if not isinstance(message, str) or len(message) > TERMINATION_MESSAGE_LIMIT:
        return None
    try:
        report = TerminationReport.model_validate_json(message, by_alias=True, by_name=False)
    except ValidationError:
        return None
    return report if report.attempt in (0, group.attempt) and largest_claim(report) <= LARGEST_EXACT else None


def largest_claim(report: TerminationReport) -> int:
    """The largest count in a termination report."""
    progress = report.progress or Progress()
    ends = (max(end.number, end.step) for end in report.ends_in_place or ())
    return max(report.step, report.checkpoint_step or 0, report.epoch_attempt or 0, *progress.counts, *ends)
