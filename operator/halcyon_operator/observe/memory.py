"""What the operator remembers of the JobSets and pods of runs: which were seen, and how they ended.

Kept in memory only, and bounded, so that no run can fill the operator's memory. A conclusion from an ending is written
into the run's status at once, and an operator that was down uses the counters of the JobSet.
"""

from collections.abc import Callable, Iterable

from halcyon_operator.model.endings import merge_endings
from halcyon_operator.model.ownership import own_jobset_uids
from halcyon_operator.model.recent import Recent
from halcyon_operator.model.views import JobSetView, PodEnding, PodView, RunKey, RunView

MAX_ENDINGS_A_RUN = 1024
MAX_RUNS = 4096
_MOST_JOBSETS = 4
"""JobSets remembered for one run: that of the present attempt, and those that may still have pods."""


class PodEndings:
    """The endings of pods, by run."""

    def __init__(self) -> None:
        self._endings: Recent[RunKey, Recent[str, PodEnding]] = Recent(MAX_RUNS)

    def record(self, key: RunKey, pod: PodView) -> bool:
        """Record a pod's ending, if it has begun to end.

        Returns:
            Whether the ending had new information.
        """
        ending = pod.ending
        if ending is None or not ending.uid:
            return False
        endings = self._endings.recall(key, lambda: Recent(MAX_ENDINGS_A_RUN))
        known = endings.get(ending.uid)
        merged = merge_endings([known] if known else [], [ending])[0]
        if merged == known:
            return False
        endings[ending.uid] = merged
        return True

    def endings(self, key: RunKey) -> tuple[PodEnding, ...]:
        """All endings recorded for a run."""
        return tuple(self._endings[key].values()) if key in self._endings else ()

    def prune(self, key: RunKey, attempt: int, restart: int) -> None:
        """Drop the endings of earlier process groups."""
        if (endings := self._endings.get(key)) is not None:
            for uid in [uid for uid, ending in endings.items() if ending.group < (attempt, restart)]:
                del endings[uid]

    def forget(self, key: RunKey) -> None:
        """Drop the endings of a run."""
        self._endings.pop(key, None)


class OwnJobSets:
    """The uids of the JobSets that runs control or controlled, kept in memory.

    A JobSet may be deleted before its last pod, and a user with the right to write the status may remove its uid from
    there.
    """

    def __init__(self) -> None:
        self._known: Recent[RunKey, tuple[str, tuple[str, ...]]] = Recent(MAX_RUNS)

    def of(self, run: RunView, jobsets: Iterable[JobSetView]) -> frozenset[str]:
        """The uids of a run's JobSets, including those that were seen before."""
        key, seen = (run.namespace, run.name), own_jobset_uids(run, jobsets)
        uid, before = self._known.get(key, ("", ()))
        kept = tuple(dict.fromkeys((*(before if uid == run.uid else ()), *sorted(seen))))[-_MOST_JOBSETS:]
        self._known[key] = (run.uid, kept)
        return seen | frozenset(kept)


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
