"""Where the time of a process goes, from its start to now: every second under exactly one cause.

It follows what the loop, which is one thread, does or waits for. So a batch that was ready costs nothing, however long other threads took
to make it, and a save costs what it held the loop up.
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
    "training": _PRODUCTIVE,  # in a run that trains; in any other it is what that one is for
    "evaluating": "evaluation",
    "saving": "save_blocking",
    "leaving": "save_blocking",  # what a leave waits for is its checkpoint
    "done": "other",
}


class TimeAccount:
    """Seconds by cause, for one thread; threads that share it hold a lock.

    Args:
        began: When the process began, in seconds of a monotonic clock.
        work: The stage in which the run does what it is for; the time in it is productive.
    """

    def __init__(self, began: float, work: Stage = "training") -> None:
        self._work = work
        self._counted_until = began
        self._seconds = dict.fromkeys(CAUSES, 0.0)
        self._stepped = False

    def stage_ends(self, stage: Stage, now: float) -> str:
        """Count the time since the last call to the stage that ends.

        Returns:
            The cause that it was counted under.
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
        """So much of the time until now, in this stage, was a wait for a batch."""
        cause = self.stage_ends(stage, now)
        moved = min(seconds, self._seconds[cause])
        self._seconds[cause] -= moved
        self._seconds["data_wait"] += moved

    def until(self, stage: Stage, now: float) -> GoodputSeconds:
        """All seconds until now; their sum is the age of the process, to a millisecond a cause."""
        self.stage_ends(stage, now)
        return GoodputSeconds(**{cause: round(seconds, 3) for cause, seconds in self._seconds.items()})
