"""Reads the newest warning event of a pod that does not start.

Some causes are only in events: a volume that is not mounted (FailedMount), a network that does not work (FailedCreatePodSandBox). A
reconcile never waits for the answer. The events are listed in the background, for one late pod of a run, at most once a minute; the run is
reconciled again if the warning has changed. Without the right to list events, the run's condition shows only what the pod itself reports.

Every user who may create events in the namespace can write such a text. So it is shown but has no other effect, its length is bounded, and
credentials in URLs are removed."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from halcyon_operator.kube.client import ApiError
from halcyon_operator.model.keys import RunKey
from halcyon_operator.model.late_pods import late_pods
from halcyon_operator.model.untrusted import moment, text, value_at
from halcyon_operator.model.views import PodView, PodWarning

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 60.0
"""Shortest time between two lists of a pod's events."""
MAX_AT_ONCE = 4
MAX_REMEMBERED = 4096
MAX_MESSAGE = 240
_UID = re.compile(r"[A-Za-z0-9-]{1,64}")
_REASON = re.compile(r"[A-Za-z0-9]{1,64}")
_USER_OF_URL = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/@\"']*@", re.IGNORECASE)
_QUERY_OF_URL = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s?\"']*\?)[^\s\"']*", re.IGNORECASE)


class ListsEvents(Protocol):
    """Lists the events of a pod."""

    async def pod_warnings(self, namespace: str, pod_uid: str) -> Sequence[object]:
        """Documents of the events of type Warning, in no particular order."""
        ...


@dataclass
class _Pod:
    """The last known warning of one pod."""

    warning: PodWarning | None = None
    due: float = 0.0
    request: asyncio.Task[None] | None = None


class PodEvents:
    """The newest warnings about late pods.

    Args:
        events: Lists the events of a pod.
        changed: Called with a run's key when the warning has changed.
        clock: The time, in UTC.
        timer: Seconds, monotonic.
    """

    def __init__(
        self, events: ListsEvents, changed: Callable[[RunKey], None], clock: Callable[[], datetime], timer: Callable[[], float]
    ) -> None:
        self._events = events
        self._changed = changed
        self._clock = clock
        self._timer = timer
        self._known: OrderedDict[str, _Pod] = OrderedDict()
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)

    def of(self, key: RunKey, pods: Iterable[PodView]) -> PodWarning | None:
        """The newest known warning about the first late pod. Starts a new request in the background if one is due."""
        late = late_pods(pods, self._clock())
        if not late or not _UID.fullmatch(late[0].uid):
            return None
        pod = late[0]
        known = self._known.setdefault(pod.uid, _Pod())
        self._known.move_to_end(pod.uid)
        while len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)
        if known.request is None and self._timer() >= known.due:
            known.due = self._timer() + PAUSE_SECONDS
            known.request = asyncio.create_task(self._ask(key, pod, known))
        return known.warning

    async def close(self) -> None:
        """Cancel all requests."""
        running = [pod.request for pod in self._known.values() if pod.request is not None]
        for request in running:
            request.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _ask(self, key: RunKey, pod: PodView, known: _Pod) -> None:
        before = known.warning
        try:
            async with self._slots:
                known.warning = newest_warning(pod, await self._events.pod_warnings(key[0], pod.uid))
        except ApiError as error:
            known.warning = None
            logger.debug("%s/%s: the events of pod %s cannot be listed: %s", *key, pod.name, error)
        finally:
            known.request = None
        if known.warning != before:
            self._changed(key)


def newest_warning(pod: PodView, events: Iterable[object]) -> PodWarning | None:
    """The newest warning since a pod was bound to its node; None if there is none. Never raises."""
    found = [
        (at, reason, message)
        for event in events
        if value_at(event, "involvedObject", "uid") == pod.uid
        and value_at(event, "type") == "Warning"
        and (at := _time(event)) is not None
        and (pod.scheduled_at is None or at >= pod.scheduled_at)
        and _REASON.fullmatch(reason := text(value_at(event, "reason"), 65))
        and (message := _cleaned(value_at(event, "message")))
    ]
    if not found:
        return None
    _, reason, message = max(found)
    return PodWarning(pod.uid, reason, message)


def _time(event: object) -> datetime | None:
    """When an event occurred last."""
    times = (("series", "lastObservedTime"), ("lastTimestamp",), ("eventTime",), ("metadata", "creationTimestamp"))
    return next((at for path in times if (at := moment(value_at(event, *path))) is not None), None)


def _cleaned(message: object) -> str:
    """The message in one line, without names, passwords and signatures in a URL."""
    line = " ".join(text(message).split())
    line = _QUERY_OF_URL.sub(r"\1…", _USER_OF_URL.sub(r"\1…@", line))
    return line if len(line) <= MAX_MESSAGE else f"{line[:MAX_MESSAGE].rstrip()}…"
