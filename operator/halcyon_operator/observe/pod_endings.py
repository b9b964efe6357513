"""Endings of pods that the watch showed. A JobSet that restarts its process group deletes the pods within seconds.

Kept in memory only: a conclusion from an ending is written into the run's status at once, and an operator that was down
uses the counters of the JobSet. Bounded, so that no run can fill the operator's memory."""

from __future__ import annotations

from collections import OrderedDict

from halcyon_operator.model.endings import merge_endings
from halcyon_operator.model.views import PodEnding, PodView, RunKey

MAX_ENDINGS_A_RUN = 1024
MAX_RUNS = 4096


class PodEndings:
    """The endings of pods, by run."""

    def __init__(self) -> None:
        self._endings: OrderedDict[RunKey, OrderedDict[str, PodEnding]] = OrderedDict()

    def record(self, key: RunKey, pod: PodView) -> bool:
        """Record a pod's ending, if it has begun to end.

        Returns:
            Whether the ending had new information.
        """
        ending = pod.ending
        if ending is None or not ending.uid:
            return False
        endings = self._endings.setdefault(key, OrderedDict())
        self._endings.move_to_end(key)
        known = endings.get(ending.uid)
        merged = merge_endings([known] if known else [], [ending])[0]
        if merged == known:
            return False
        endings[ending.uid] = merged
        while len(endings) > MAX_ENDINGS_A_RUN:
            endings.popitem(last=False)
        while len(self._endings) > MAX_RUNS:
            self._endings.popitem(last=False)
        return True

    def endings(self, key: RunKey) -> tuple[PodEnding, ...]:
        """All endings recorded for a run."""
        endings = self._endings.get(key)
        return tuple(endings.values()) if endings is not None else ()

    def prune(self, key: RunKey, attempt: int, restart: int) -> None:
        """Drop the endings of earlier process groups."""
        if (endings := self._endings.get(key)) is not None:
            for uid in [uid for uid, ending in endings.items() if ending.group < (attempt, restart)]:
                del endings[uid]

    def forget(self, key: RunKey) -> None:
        """Drop the endings of a run."""
        self._endings.pop(key, None)
