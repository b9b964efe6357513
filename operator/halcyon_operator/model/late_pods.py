"""Finds late pods: pods that have a node and do not start. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from halcyon_operator.model.views import PodView

START_SECONDS = 300.0
"""Time after which a pod that has a node and does not run is late."""


def late_pods(pods: Iterable[PodView], now: datetime) -> list[PodView]:
    """The late pods, in the order of their processes."""
    late = [
        pod
        for pod in pods
        if pod.phase == "Pending" and not pod.deleting and not pod.running and pod.scheduled_at is not None
        and (now - pod.scheduled_at).total_seconds() >= START_SECONDS
    ]  # fmt: skip
    return sorted(late, key=lambda pod: (pod.process, pod.name))
