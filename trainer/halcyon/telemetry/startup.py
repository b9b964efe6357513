"""Where the time from the start of a process to the end of its first step goes: every second of it is in exactly one part.

The parts follow the stages of the loop, which is one thread and does one thing at a time. What other threads do meanwhile (tokenize, read
ahead) costs the start nothing, and is counted only once the loop waits for it.
"""

from __future__ import annotations

from halcyon_api.progress import Stage, StartupSeconds

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
        began: When the process began, in seconds of a monotonic clock.
    """

    def __init__(self, began: float) -> None:
        self._counted_until = began
        self._parts: dict[str, float] = {}
        self._over = False

    def stage_ends(self, stage: Stage, now: float) -> None:
        """Count the time since the last call to the part of the stage that ends; after the first step nothing is counted."""
        part = _PARTS.get(stage)
        if part is not None and not self._over:
            # To the microsecond: clocks tell no more, and a reader wants no more.
            self._parts[part] = round(self._parts.get(part, 0.0) + max(0.0, now - self._counted_until), 6)
        self._counted_until = now

    def first_step_ends(self, stage: Stage, now: float) -> None:
        """The start is over."""
        self.stage_ends(stage, now)
        self._over = True

    @property
    def parts(self) -> dict[str, float]:
        """Seconds of the parts that have ended, by the names of `StartupSeconds`; those that never were are absent."""
        return dict(self._parts)

    @property
    def seconds(self) -> StartupSeconds:
        """Seconds of all parts that have ended."""
        return StartupSeconds(**self._parts)
