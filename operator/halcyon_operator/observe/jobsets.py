"""Parses a JobSet document of the API server into a `JobSetView`."""

from halcyon_api import names
from halcyon_operator.model.untrusted import (
    Members,
    conditions_of,
    count,
    holds,
    mapping,
    mappings,
    moment,
    text,
    value_at,
)
from halcyon_operator.model.views import JobSetView, ObjectView
from halcyon_operator.objects.kueue import LABEL_QUEUE

MAX_LABEL = 63


_AFFINITY = ("template", "spec", "template", "spec", "affinity")


def parse_jobset(document: object) -> JobSetView:
    """The view of a JobSet. Never raises."""
    metadata = mapping(value_at(document, "metadata"))
    status = mapping(value_at(document, "status"))
    conditions = conditions_of(status)
    completed, failed = (holds(conditions.get(kind, {})) for kind in ("Completed", "Failed"))
    end = conditions.get("Completed" if completed else "Failed", {})
    jobs = mappings(value_at(document, "spec", "replicatedJobs"))
    return JobSetView(
        name=text(metadata.get("name")),
        uid=text(metadata.get("uid")),
        attempt=count(value_at(metadata, "labels", names.LABEL_ATTEMPT)),
        owner_uid=controller_uid(metadata),
        deleting=metadata.get("deletionTimestamp") is not None,
        restarts=count(status.get("restarts")),
        restarts_counted=count(status.get("restartsCountTowardsMax")),
        outcome="completed" if completed else "failed" if failed else "running",
        failure_reason="" if completed else text(end.get("reason")),
        failure_message="" if completed else text(end.get("message")),
        finished_at=moment(end.get("lastTransitionTime")) if completed or failed else None,
        created_at=moment(metadata.get("creationTimestamp")),
        replicas=sum(count(job.get("replicas")) for job in jobs),
        suspended=value_at(document, "spec", "suspend") is True,
        queue=text(value_at(metadata, "labels", LABEL_QUEUE), MAX_LABEL),
        in_place=any(count(value_at(job, "template", "spec", "backoffLimit")) for job in jobs),
        guarded=any(value_at(job, *_AFFINITY, "podAntiAffinity") for job in jobs),
    )


def parse_object(kind: str, document: object) -> ObjectView:
    """Name, uid and owner of any object. Never raises."""
    metadata = mapping(value_at(document, "metadata"))
    return ObjectView(
        kind=kind,
        name=text(metadata.get("name")),
        uid=text(metadata.get("uid")),
        owner_uid=controller_uid(metadata),
        deleting=metadata.get("deletionTimestamp") is not None,
    )


def controller_uid(metadata: Members) -> str:
    """Uid of the object that controls this one; empty: none."""
    owners = mappings(metadata.get("ownerReferences"))
    return next((text(owner.get("uid")) for owner in owners if owner.get("controller") is True), "")
