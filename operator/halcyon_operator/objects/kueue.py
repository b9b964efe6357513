"""Kueue's words: what a JobSet bears to be put into a queue, and what a Workload says of one that is in it. Pure.

A JobSet with the label of a queue is made suspended. Kueue makes a Workload for it, with all its slices as one whole, and ends the
suspension when there is quota for all of them and every admission check has passed; until then it has no pods, and without Kueue it never
gets any. When Kueue takes the quota back it suspends the JobSet again and says why in the Workload. It also writes node selectors,
tolerations and labels of the flavor into the suspended JobSet's pod template; the operator never compares those with what it made.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from halcyon_api.spec.queue import QueueSpec
from halcyon_operator.model.untrusted import dig, mapping, moment, sequence, text

API_VERSION = "kueue.x-k8s.io/v1beta2"
WORKLOADS = "workloads"
LABEL_QUEUE = "kueue.x-k8s.io/queue-name"
LABEL_PRIORITY_CLASS = "kueue.x-k8s.io/priority-class"
LABEL_JOB_UID = "kueue.x-k8s.io/job-uid"
"""Bears the uid of the JobSet that a Workload stands for."""
_TOPOLOGY = "kueue.x-k8s.io/podset-{}-topology"
_SLICE_SIZE = "kueue.x-k8s.io/podset-slice-size"
_MAX_RUN_DURATION = "provreq.kueue.x-k8s.io/maxRunDurationSeconds"
MAX_WORD = 316


@dataclass(frozen=True)
class Said:
    """What a condition of a Workload says while it holds, or while it does not."""

    reason: str = ""
    message: str = ""
    at: datetime | None = None


@dataclass(frozen=True)
class Check:
    """One thing besides quota that must be so before a Workload is admitted, such as nodes by a ProvisioningRequest."""

    name: str
    state: str
    """`Pending`, `Ready`, `Retry` or `Rejected`."""
    message: str = ""


@dataclass(frozen=True)
class WorkloadView:
    """What Kueue says of a JobSet in a queue."""

    name: str
    active: bool = True
    """Kueue leaves one that is not alone, until somebody makes it active."""
    cluster_queue: str = ""
    """Where quota is reserved for it."""
    unreserved: Said | None = None
    """Why it has no quota, as long as it has none."""
    admitted: bool = False
    evicted: Said | None = None
    """Why it lost its quota, until it has some again."""
    finished: Said | None = None
    checks: tuple[Check, ...] = ()
    requeue_at: datetime | None = None
    """When it takes its place in the queue again, after an eviction."""


@dataclass(frozen=True)
class NoWorkload:
    """Kueue is there and has no Workload for the JobSet."""


@dataclass(frozen=True)
class NoKueue:
    """The cluster does not serve Workloads."""


@dataclass(frozen=True)
class WorkloadUnread:
    """The Workload could not be read. The reason is a clause for the user."""

    reason: str


WorkloadReading = WorkloadView | NoWorkload | NoKueue | WorkloadUnread


def jobset_labels(queue: QueueSpec | None) -> dict[str, str]:
    """What puts a JobSet into a queue; nothing without one."""
    if queue is None:
        return {}
    return {LABEL_QUEUE: queue.name} | ({LABEL_PRIORITY_CLASS: queue.priority_class} if queue.priority_class is not None else {})


def jobset_annotations(queue: QueueSpec | None) -> dict[str, str]:
    """What Kueue passes on to a ProvisioningRequest."""
    if queue is None or queue.max_run_duration_seconds is None:
        return {}
    return {_MAX_RUN_DURATION: str(queue.max_run_duration_seconds)}


def pod_annotations(queue: QueueSpec | None, hosts_per_slice: int) -> dict[str, str]:
    """How close together Kueue places the pods."""
    topology = queue.topology if queue is not None else None
    if topology is None:
        return {}
    wanted = {"required": topology.required, "preferred": topology.preferred, "slice-required": topology.slice}
    annotations = {_TOPOLOGY.format(how): level for how, level in wanted.items() if level is not None}
    return annotations | ({_SLICE_SIZE: str(hosts_per_slice)} if topology.slice is not None else {})


def parse_workload(document: object) -> WorkloadView:
    """A Workload as the operator sees it. Never raises."""
    status = mapping(dig(document, "status"))
    conditions = {text(dig(one, "type")): mapping(one) for one in sequence(status.get("conditions"))}
    reserved = conditions.get("QuotaReserved")
    return WorkloadView(
        name=text(dig(document, "metadata", "name")),
        active=dig(document, "spec", "active") is not False,
        cluster_queue=text(dig(status, "admission", "clusterQueue"), MAX_WORD),
        unreserved=None if _holds(reserved) else _said(reserved or {}),
        admitted=_holds(conditions.get("Admitted")),
        evicted=_said(conditions["Evicted"]) if _holds(conditions.get("Evicted")) else None,
        finished=_said(conditions["Finished"]) if _holds(conditions.get("Finished")) else None,
        checks=tuple(
            Check(text(dig(one, "name"), MAX_WORD), text(dig(one, "state")), text(dig(one, "message")))
            for one in sequence(status.get("admissionChecks"))
        ),
        requeue_at=moment(dig(status, "requeueState", "requeueAt")),
    )


def newest(documents: tuple[object, ...]) -> WorkloadView | NoWorkload:
    """The Workload of a JobSet among those that bear its uid: there is one, or for a moment another that is being deleted."""
    found = [one for one in documents if dig(one, "metadata", "deletionTimestamp") is None]
    found.sort(key=lambda one: text(dig(one, "metadata", "creationTimestamp")))
    return parse_workload(found[-1]) if found else NoWorkload()


def _holds(condition: dict[str, object] | None) -> bool:
    return condition is not None and condition.get("status") == "True"


def _said(condition: dict[str, object]) -> Said:
    return Said(text(condition.get("reason"), MAX_WORD), text(condition.get("message"), 1024), moment(condition.get("lastTransitionTime")))
