"""Which steps of a process group were kept and which were lost.

It follows from the step at which later process groups resumed.
"""

from collections.abc import Sequence

from halcyon_api.status.goodput import GoodputSeconds
from halcyon_api.status.run_status import HistoryEntry


def divide(entry: HistoryEntry, later: Sequence[HistoryEntry]) -> tuple[GoodputSeconds, int]:
    """The seconds of a process group with the lost ones moved to `lostWork`, and the number of lost steps.

    Args:
        entry: The process group.
        later: The process groups after it.
    """
    if entry.seconds is None:
        return GoodputSeconds(), 0
    resumed = min((after.from_step for after in later if after.from_step is not None), default=None)
    if entry.from_step is None or entry.to_step is None or resumed is None:
        return entry.seconds, 0
    done = entry.to_step - entry.from_step
    counts = entry.seconds.milliseconds()
    steps, unseen = counts["productive_step"], min(counts["other"], round(1000 * entry.unseen_seconds))
    if resumed > entry.to_step:
        # It trained on and saved after its last report. Assume the same speed as before; the rest of that time stays in
        # `other`.
        more = min(unseen, steps * (resumed - entry.to_step) // done) if done > 0 else 0
        counts["productive_step"] += more
        counts["other"] -= more
        return GoodputSeconds.of_milliseconds(counts), 0
    lost_steps = entry.to_step - max(resumed, entry.from_step)
    lost = steps * lost_steps // done if done > 0 else 0
    counts["productive_step"] -= lost
    counts["other"] -= unseen
    counts["lost_work"] += lost + unseen
    return GoodputSeconds.of_milliseconds(counts), max(0, lost_steps)
