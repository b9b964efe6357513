"""The time of a process, from its start to now: every second under exactly one cause.

Time is counted by what the loop, which is one thread, does or waits for. So a batch that was ready in time costs nothing, whatever time
other threads took to make it, and a save costs only the time that it blocked the loop.
"""

from __future__ import annotations

import bisect

from halcyon_api.status.goodput import CAUSES, GoodputSeconds
from halcyon_api.status.progress import Stage

_PRODUCTIVE = "productive_step"
_MOST_MARKS = 2048
"""Steps whose time is remembered; of a longer process, each second, fourth, … of them."""
_CAUSES: dict[Stage, str] = {
    "starting": "startup",
    "joining": "join",
    "tokenizing": "data_wait",
    "restoring": "restore",
    "compiling": "compile",
    "training": _PRODUCTIVE,  # in a run that trains; other tasks have another productive stage, see `TimeAccount`
    "evaluating": "evaluation",
    "saving": "save_blocking",
    "leaving": "save_blocking",  # in this stage the process waits for its last save
    "done": "other",
}


class TimeAccount:
    """Seconds by cause, for one thread; threads that share it hold a lock.

    Args:
        began: Start of the process, in seconds of a monotonic clock.
        work: The stage of the run's productive work.
    """

    def __init__(self, began: float, work: Stage = "training") -> None:
        self._work = work
        self._counted_until = began
        self._seconds = dict.fromkeys(CAUSES, 0.0)
        self._stepped = False
        self._marks: list[tuple[int, float]] = []
        """Steps, and the seconds of productive steps until their ends."""

    def stage_ends(self, stage: Stage, now: float) -> str:
        """Count the time since the last call under the cause of the stage that ends.

        Returns:
            This cause.
        """
        cause = _PRODUCTIVE if stage == self._work else _CAUSES[stage]
        if cause == _PRODUCTIVE and not self._stepped:
            cause = "compile"  # the first step compiles even if no stage was reported
        self._seconds[cause] += max(0.0, now - self._counted_until)
        self._counted_until = max(now, self._counted_until)
        return cause

    def first_step_ends(self, stage: Stage, now: float) -> None:
        """From here on, steps are productive."""
        self.stage_ends(stage, now)
        self._stepped = True

    def step_ends(self, stage: Stage, step: int, now: float) -> None:
        """Count the time until the end of a step, and remember it for `went_back`."""
        self.stage_ends(stage, now)
        self._marks.append((step, self._seconds[_PRODUCTIVE]))
        if len(self._marks) > _MOST_MARKS:
            del self._marks[1::2]

    def went_back(self, stage: Stage, step: int, now: float) -> None:
        """Move the time of the steps after this one to the cause ``lost_work``, because the process does them again."""
        self.stage_ends(stage, now)
        kept = min(self._seconds_until(step), self._seconds[_PRODUCTIVE])
        self._seconds["lost_work"] += self._seconds[_PRODUCTIVE] - kept
        self._seconds[_PRODUCTIVE] = kept
        del self._marks[bisect.bisect_right(self._marks, (step, float("inf"))) :]

    def _seconds_until(self, step: int) -> float:
        """The seconds of productive steps until the end of a step of the past; 0 for a step before those of this process."""
        after = bisect.bisect_right(self._marks, (step, float("inf")))
        if after == 0:
            return 0.0
        low, below = self._marks[after - 1]
        if after == len(self._marks) or low == step:
            return below
        high, above = self._marks[after]
        return below + (above - below) * (step - low) / (high - low)

    def waited_for_data(self, stage: Stage, now: float, seconds: float) -> None:
        """Move this number of seconds before `now`, which the stage spent in a wait for a batch, to the cause ``data_wait``."""
        cause = self.stage_ends(stage, now)
        moved = min(seconds, self._seconds[cause])
        self._seconds[cause] -= moved
        self._seconds["data_wait"] += moved

    def until(self, stage: Stage, now: float) -> GoodputSeconds:
        """All seconds until `now`. Their sum is the age of the process; each cause is rounded to a millisecond."""
        self.stage_ends(stage, now)
        return GoodputSeconds(**{cause: round(seconds, 3) for cause, seconds in self._seconds.items()})
