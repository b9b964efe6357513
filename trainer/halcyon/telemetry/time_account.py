"""The time of a process, from its start to now: every second under exactly one cause.

Time is counted by what the loop, which is one thread, does or waits for. So a batch that was ready in time costs nothing, whatever time
other threads took to make it, and a save costs only the time that it blocked the loop.
"""

from __future__ import annotations

from halcyon_api.goodput import CAUSES, GoodputSeconds
from halcyon_api.progress import Stage

_PRODUCTIVE = "productive_step"
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
