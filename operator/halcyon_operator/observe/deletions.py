"""How long this process has seen that pods are being deleted.

The time in a pod is that of the API server. If the operator's clock is ahead of it, a comparison of both would kill
pods inside their grace period. So the wait is measured by one clock, from the moment when the operator first sees the
deletion: after a restart it begins again."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from halcyon_operator.model.views import PodView, RunKey


class SeenDeletions:
    """The pods in deletion, by run. Bounded by the pods that exist.

    Args:
        timer: Seconds, monotonic.
    """

    def __init__(self, timer: Callable[[], float]) -> None:
        self._timer = timer
        self._seen: dict[RunKey, dict[str, float]] = {}

    def seconds(self, key: RunKey, pods: Iterable[PodView]) -> dict[str, float]:
        """Seconds since the deletion of each pod of a run was first seen, by uid. Pods that are gone are forgotten.

        Args:
            key: The run.
            pods: All its pods, and those of earlier runs of its name.
        """
        now, before = self._timer(), self._seen.pop(key, {})
        seen = {pod.uid: before.get(pod.uid, now) for pod in pods if pod.deleting}
        if seen:
            self._seen[key] = seen
        return {uid: now - first for uid, first in seen.items()}

    def forget(self, key: RunKey) -> None:
        """Drop the pods of a run that is gone."""
        self._seen.pop(key, None)
