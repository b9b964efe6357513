"""The parts of the time from the start of a process to the end of its first step.

The parts follow the stages of the loop, which is one thread and does one thing at a time, so no second is counted twice. Work in other
threads (tokenizing, reading ahead) is counted only while the loop waits for it. A save before the first step is in no part.
"""

from __future__ import annotations

from halcyon_api.status.progress import Stage, StartupSeconds

_PARTS: dict[Stage, str] = {
    "starting": "imports",
    "joining": "join",
    "tokenizing": "data",
    "restoring": "restore",
    "compiling": "compile",
    # The first step compiles even if no stage was reported.
    "training": "compile",
    "evaluating": "compile",
}


class Startup:
    """The parts of a start.

    Args:
        began: Start of the process, in seconds of a monotonic clock.
    """

    def __init__(self, began: float) -> None:
        self._counted_until = began
        self._parts: dict[str, float] = {}
        self._over = False

    def stage_ends(self, stage: Stage, now: float) -> None:
        """Add the time since the last call to the part of the stage that ends. After the first step nothing is added."""
        part = _PARTS.get(stage)
        if part is not None and not self._over:
            # To the microsecond: clocks are not more precise, and readers need no more.
            self._parts[part] = round(self._parts.get(part, 0.0) + max(0.0, now - self._counted_until), 6)
        self._counted_until = now

    def first_step_ends(self, stage: Stage, now: float) -> None:
        """The first step ends, and with it the start."""
        self.stage_ends(stage, now)
        self._over = True

    @property
    def parts(self) -> dict[str, float]:
        """Seconds of the parts that have ended, by the names of `StartupSeconds`; parts that did not occur are absent."""
        return dict(self._parts)

    @property
    def seconds(self) -> StartupSeconds:
        """Seconds of all parts that have ended."""
        return StartupSeconds(**self._parts)
