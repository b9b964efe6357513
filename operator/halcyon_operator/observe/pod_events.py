"""Reads the newest warning event about a pod that does not start, or about a Job whose pods are not made.

Some causes are only in events: a volume that is not mounted (FailedMount), a network that does not work
(FailedCreatePodSandBox), a quota or a webhook that refuses the pod (FailedCreate, an event of the Job). After a restart
a Job has the name of the one before it. So an event counts only for the uid of its object, and for a Job or JobSet only
if it says that a creation failed. A reconcile never waits for the answer. The events are listed in the background, for
one late pod of a run at most once a minute, and for one Job without pods every ten seconds; the run is reconciled again
if the warning has changed. Without the right to list events, the run's condition shows only what the pods themselves
report.

Every user who may create events in the namespace can write such a text. So it is shown but has no other effect, its
length is bounded, and credentials in URLs are removed."""

import asyncio
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from halcyon_api import names
from halcyon_api.status.run_status import TrainingRunStatus
from halcyon_operator.kube.client import ApiError
from halcyon_operator.kube.cluster import Cluster
from halcyon_operator.kube.tasks import cancelled
from halcyon_operator.model.history import entry_of, group_of
from halcyon_operator.model.ownership import SILENT_SECONDS, late_pods
from halcyon_operator.model.recent import Recent
from halcyon_operator.model.untrusted import moment, text, value_at
from halcyon_operator.model.views import JobSetView, PodView, PodWarning, RunKey

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 60.0
"""Shortest time between two lists of a pod's events."""
MISSING_PAUSE_SECONDS = 10.0
"""The same for the events of a Job whose pods are missing."""
MISSING_SECONDS = 3.0
"""Seconds after the start of a process group in which its pods may not be there yet."""
MAX_AT_ONCE = 4
MAX_REMEMBERED = 4096
MAX_MESSAGE = 512
"""An admission policy's own sentence stands at the end, after names of up to 63 characters."""
_UID = re.compile(r"[A-Za-z0-9-]{1,64}")
_REASON = re.compile(r"[A-Za-z0-9]{1,64}")
_REFUSAL = re.compile(r"FailedCreate|[A-Za-z]+CreationFailed")
_USER_OF_URL = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/@\"']*@", re.IGNORECASE)
_QUERY_OF_URL = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s?\"']*\?)[^\s\"']*", re.IGNORECASE)


@dataclass(frozen=True)
class Subject:
    """An object whose events are read."""

    kind: str
    name: str
    uid: str
    """Empty: that of the Job which has this name now."""
    since: datetime | None
    """Older events do not count."""


@dataclass
class _Known:
    """The last known warning about one object."""

    warning: PodWarning | None = None
    due: float = 0.0
    request: asyncio.Task[None] | None = None


@dataclass(eq=False)
class PodEvents:
    """The newest warnings about late pods, and about Jobs whose pods are missing.

    Args:
        events: Lists events.
        changed: Called with a run's key when the warning has changed.
        clock: The time, in UTC.
        timer: Seconds, monotonic.
    """

    events: Cluster
    changed: Callable[[RunKey], None]
    clock: Callable[[], datetime]
    timer: Callable[[], float]

    def __post_init__(self) -> None:
        self._known: Recent[tuple[str, Subject], _Known] = Recent(MAX_REMEMBERED)
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)

    def of(
        self, key: RunKey, pods: Sequence[PodView], jobset: JobSetView, status: TrainingRunStatus
    ) -> PodWarning | None:
        """The newest known warning about the first late pod, else about the first object whose pods are missing.

        Starts a new request in the background if one is due.

        Args:
            key: The run.
            pods: The pods of its process group.
            jobset: The JobSet of its present attempt.
            status: Its status.
        """
        late = late_pods(pods, self.clock())
        if late and _UID.fullmatch(late[0].uid):
            return self._newest(key, Subject("Pod", late[0].name, late[0].uid, late[0].scheduled_at), PAUSE_SECONDS)
        found = [
            warning
            for subject in without_pods(pods, jobset, status, self.clock())
            if (warning := self._newest(key, subject, MISSING_PAUSE_SECONDS)) is not None
        ]
        return min(found, key=lambda warning: not warning.reason, default=None)

    def _newest(self, key: RunKey, subject: Subject, pause: float) -> PodWarning | None:
        known = self._known.recall((key[0], subject), _Known)
        if known.request is None and self.timer() >= known.due:
            known.due = self.timer() + pause
            known.request = asyncio.create_task(self._ask(key, subject, known))
        return known.warning

    async def close(self) -> None:
        """Cancel all requests."""
        await cancelled(known.request for known in self._known.values())

    async def _ask(self, key: RunKey, subject: Subject, known: _Known) -> None:
        before = known.warning
        try:
            async with self._slots:
                known.warning = await self._warning(key[0], subject)
        except ApiError as error:
            known.warning = None
            logger.debug("%s/%s: the events of %s %s cannot be read: %s", *key, subject.kind, subject.name, error)
        finally:
            known.request = None
        if known.warning != before:
            self.changed(key)

    async def _warning(self, namespace: str, subject: Subject) -> PodWarning | None:
        uid = subject.uid or await self.events.job_uid(namespace, subject.name)
        if uid:
            return newest_warning(replace(subject, uid=uid), await self.events.warnings(namespace, uid))
        silent = subject.since is not None and (self.clock() - subject.since).total_seconds() >= SILENT_SECONDS
        return PodWarning(subject.kind, subject.name, "", "") if silent else None


def without_pods(
    pods: Sequence[PodView], jobset: JobSetView, status: TrainingRunStatus, now: datetime
) -> tuple[Subject, ...]:
    """The first Job of a process group that has had too few pods for `MISSING_SECONDS`, and the JobSet if there is no
    pod at all.
    """
    entry, topology = entry_of(status, group_of(status, jobset)), status.topology
    since = moment(entry.started_at) if entry is not None else jobset.created_at
    if topology is None or since is None or (now - since).total_seconds() < MISSING_SECONDS or jobset.suspended:
        return ()
    there = Counter(pod.process.slice for pod in pods)
    short = next((index for index in range(topology.slices) if there[index] < topology.hosts // topology.slices), None)
    if short is None:
        return ()
    job = Subject("Job", f"{jobset.name}-{names.REPLICATED_JOB}-{short}", "", since)
    return (job,) if pods else (job, Subject("JobSet", jobset.name, jobset.uid, since))


def newest_warning(subject: Subject, events: Iterable[object]) -> PodWarning | None:
    """The newest warning about an object; None if there is none. Never raises."""
    found = [
        (at, reason, message)
        for event in events
        if value_at(event, "involvedObject", "uid") == subject.uid
        and value_at(event, "type") == "Warning"
        and (at := _time(event)) is not None
        and (subject.since is None or at >= subject.since)
        and (_REASON if subject.kind == "Pod" else _REFUSAL).fullmatch(reason := text(value_at(event, "reason"), 65))
        and (message := _cleaned(value_at(event, "message")))
    ]
    if not found:
        return None
    _, reason, message = max(found)
    return PodWarning(subject.kind, subject.name, reason, message)


def _time(event: object) -> datetime | None:
    """When an event occurred last."""
    times = (("series", "lastObservedTime"), ("lastTimestamp",), ("eventTime",), ("metadata", "creationTimestamp"))
    return next((at for path in times if (at := moment(value_at(event, *path))) is not None), None)


def _cleaned(message: object) -> str:
    """The message in one line, without names, passwords and signatures in a URL."""
    line = " ".join(text(message).split())
    line = _QUERY_OF_URL.sub(r"\1…", _USER_OF_URL.sub(r"\1…@", line))
    return line if len(line) <= MAX_MESSAGE else f"{line[:MAX_MESSAGE].rstrip()}…"
