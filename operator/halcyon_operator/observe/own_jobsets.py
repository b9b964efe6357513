"""Remembers the JobSets that runs control or controlled."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from halcyon_operator.model.ownership import own_jobset_uids
from halcyon_operator.model.views import JobSetView, RunKey, RunView

_MOST_JOBSETS = 4
"""JobSets remembered for one run: that of the present attempt, and those that may still have pods."""
_MOST_RUNS = 4096


class OwnJobSets:
    """The uids of the JobSets that runs control or controlled, kept in memory.

    A JobSet may be deleted before its last pod, and a user with the right to write the status may remove its uid from
    there.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[RunKey, tuple[str, tuple[str, ...]]] = OrderedDict()

    def of(self, run: RunView, jobsets: Iterable[JobSetView]) -> frozenset[str]:
        """The uids of a run's JobSets, including those that were seen before."""
        key, seen = (run.namespace, run.name), own_jobset_uids(run, jobsets)
        uid, before = self._known.get(key, ("", ()))
        kept = tuple(dict.fromkeys((*(before if uid == run.uid else ()), *sorted(seen))))[-_MOST_JOBSETS:]
        self._known[key] = (run.uid, kept)
        self._known.move_to_end(key)
        while len(self._known) > _MOST_RUNS:
            self._known.popitem(last=False)
        return seen | frozenset(kept)
