"""Describes late pods: pods that have a node and do not start, because a volume, a network or an image is missing.
Pure.

The status shows identifiers and the operator's own sentences about them. Text from a node or a controller may be long
and is untrusted, so only the newest event is shown, cleaned and cut (`pod_events`)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime

from halcyon_operator.model.late_pods import late_pods
from halcyon_operator.model.untrusted import stamp
from halcyon_operator.model.views import PodView, PodWarning

_REASON = re.compile(r"[A-Za-z0-9]{1,64}")


def start_problem(pods: Iterable[PodView], now: datetime, warning: PodWarning | None = None) -> str | None:
    """One sentence about the first late pod; None if there is none.

    Args:
        pods: The pods of one process group.
        now: The time.
        warning: The newest warning event about one of them, if known.
    """
    late = late_pods(pods, now)
    if not late:
        return None
    first = late[0]
    others = f", and {len(late) - 1} more" if len(late) > 1 else ""
    since = stamp(first.scheduled_at) if first.scheduled_at is not None else ""
    reason = first.waiting_reason if _REASON.fullmatch(first.waiting_reason) else "no reason is given"
    return f"pod {first.name}{_on(first)} has not started since {since}{others}: {reason}{_why(first, warning)}"


def _why(pod: PodView, warning: PodWarning | None) -> str:
    """The cause, from the pod's events or else its conditions, and the command that shows more."""
    if warning is not None and (warning.kind, warning.name) == ("Pod", pod.name):
        return f"; {warning.reason}: {warning.message}; `kubectl describe pod {pod.name}` has all its events"
    describe = f"`kubectl describe pod {pod.name}` names the cause"
    if pod.waiting_reason not in ("", "ContainerCreating", "PodInitializing"):
        return f"; {describe}"
    if pod.sandbox_ready is False:
        return (
            "; its volumes are not mounted, or its network is not there (FailedMount, FailedCreatePodSandBox): "
            f"{describe}"
        )
    if pod.sandbox_ready is True:
        return f"; its volumes and its network are there, and its image is not: {describe}"
    return f"; a volume, its network or its image is missing: {describe}"


def _on(pod: PodView) -> str:
    return f" on node {pod.node}" if pod.node else ""
