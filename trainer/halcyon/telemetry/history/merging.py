"""Bounds the number and the size of the files of a history. Pure.

Eight segments of one level become one segment of the next level, so a run of any length has at most seven segments of
each level, and the number of levels grows with the logarithm of its length. A merged segment holds at most `STEPS_KEPT`
rows of steps: beyond that, it keeps the steps that are multiples of a power of two. So the last steps are there in
full, and the older ones at growing distances. The same holds for texts of the model, with `SAMPLES_KEPT`. Evaluations
and all other events stay; of the accounts of time only the last one of each process group is kept, because it holds the
earlier ones.
"""

import math
from collections.abc import Iterable, Sequence

from halcyon.telemetry.history.background import STEP
from halcyon.telemetry.history.segments import Groups, ProcessGroupId, Record, SegmentName

FAN_OUT = 8
"""Segments of one level that are merged into one."""
STEPS_KEPT = 2048
"""Rows of steps in a merged segment."""
SAMPLES_KEPT = 256
"""Texts of the model in a merged segment."""
SAMPLE = "sample"
"""Event of a text that the model writes."""
ROLLED_BACK = "rolledBack"
"""Event of a return to an earlier checkpoint: steps after ``toStep`` that were done before it do not count."""
ACCOUNT = "goodput"
"""Event of a row with the seconds by cause of a process group since its start."""


def due(names: Sequence[SegmentName]) -> list[SegmentName]:
    """The segments to merge next, of one level and in their order; empty if there are none.

    Args:
        names: The segments that count.
    """
    for level in sorted({name.level for name in names}):
        names_of_level = [name for name in names if name.level == level]
        if len(names_of_level) >= FAN_OUT:
            taken = names_of_level[:FAN_OUT]
            last = max(name.last for name in taken)
            # A writer that has lost the root may have used a number twice. The merge covers its segment too, so it must
            # hold it.
            return [*taken, *(name for name in names_of_level[FAN_OUT:] if name.first <= last)]
    return []


def merged(parts: Iterable[Groups]) -> Groups:
    """The rows of several segments, given in their order, with repeated steps resolved and bounded to `STEPS_KEPT`
    steps.
    """
    return sampled(sampled(resolved(joined(parts)), STEPS_KEPT), SAMPLES_KEPT, SAMPLE)


def joined(parts: Iterable[Groups]) -> Groups:
    """The rows of several segments, given in their order."""
    groups: Groups = {}
    for part in parts:
        for group, rows in part.items():
            groups.setdefault(group, []).extend(rows)
    return {group: _one_account(groups[group]) for group in sorted(groups, key=lambda one: one.order)}


def resolved(groups: Groups) -> Groups:
    """The rows without steps that a later process group did again: it says from which step on.

    Inside a group, a row of a step replaces the rows of this step and of later ones, as after a return to an older
    checkpoint.
    """
    kept: Groups = {}
    until = math.inf
    for group in sorted(groups, key=lambda one: one.order, reverse=True):
        kept[group] = _last_of_each_step(groups[group], until)
        until = min(until, first_step(group, groups[group]))
    return dict(reversed(kept.items()))


def first_step(group: ProcessGroupId, rows: Iterable[Record]) -> int:
    """The step after which a process group has done all steps: that of its resume, or an earlier one to which it went
    back.
    """
    return min([group.resumed_step, *(row["toStep"] for row in rows if row["event"] == ROLLED_BACK)])


def sampled(groups: Groups, limit: int, event: str = STEP) -> Groups:
    """The rows with at most about `limit` of one event: those whose steps are multiples of a power of two, and the last
    one.
    """
    steps = [row["step"] for rows in groups.values() for row in rows if row["event"] == event]
    every = 1
    while sum(step % every == 0 for step in steps) > limit:
        every *= 2
    if every == 1:
        return groups
    newest = max(steps)
    return {
        group: [row for row in rows if row["event"] != event or row["step"] % every == 0 or row["step"] == newest]
        for group, rows in groups.items()
    }


def _last_of_each_step(rows: Sequence[Record], until: float) -> list[Record]:
    kept: list[Record] = []
    after = math.inf  # going back in time: the lowest step seen so far
    for row in reversed(rows):
        if row["event"] != STEP:
            kept.append(row)
            if row["event"] == ROLLED_BACK:
                after = min(after, row["toStep"] + 1)
            continue
        if row["step"] <= until and row["step"] < after:
            kept.append(row)
        after = min(after, row["step"])
    kept.reverse()
    return kept


def _one_account(rows: Sequence[Record]) -> list[Record]:
    last = next((row for row in reversed(rows) if row["event"] == ACCOUNT), None)
    return [row for row in rows if row["event"] != ACCOUNT or row is last]
