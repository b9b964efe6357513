"""The speed of the steps, measured from their ends. Its memory is bounded, whatever the length of the run.

The first step of a process is not counted, because it includes tracing and compilation.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque

STEP_SECONDS_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0)
"""Upper bounds of the histogram of step durations, in seconds; one more bucket is unbounded."""

_SPEED_STEPS = 64


class Pace:
    """Ends of steps, in order."""

    def __init__(self) -> None:
        self._ends: deque[tuple[float, int, float]] = deque(maxlen=_SPEED_STEPS + 1)
        self._buckets = [0] * (len(STEP_SECONDS_BUCKETS) + 1)
        self._sum_seconds = 0.0

    def step_ended(self, now: float, step: int, wait_seconds: float = 0.0) -> None:
        """Record the end of a step.

        If several steps ended since the last call, each counts with an equal share of the time.

        Args:
            now: Time of the end, in seconds of a monotonic clock.
            step: Steps done.
            wait_seconds: Time that the steps since the last call waited for data.
        """
        if self._ends:
            last, before, _ = self._ends[-1]
            steps = max(1, step - before)
            seconds = max(0.0, now - last) / steps
            self._buckets[bisect_left(STEP_SECONDS_BUCKETS, seconds)] += steps
            self._sum_seconds += seconds * steps
        self._ends.append((now, step, wait_seconds))

    def begin_again(self) -> None:
        """Forget the last steps, because the next one does not follow on them."""
        self._ends.clear()

    @property
    def last_ended(self) -> float | None:
        """Time of the end of the last step, in seconds of the monotonic clock; None before the first."""
        return self._ends[-1][0] if self._ends else None

    @property
    def steps_per_second(self) -> float | None:
        """Speed over the last steps; None before the second step."""
        if len(self._ends) < 2:
            return None
        (first, before, _), (last, step, _) = self._ends[0], self._ends[-1]
        return (step - before) / (last - first) if last > first else None

    @property
    def wait_ratio(self) -> float | None:
        """Share of the time of the last steps in which they waited for data; None before the second step."""
        if len(self._ends) < 2:
            return None
        seconds = self._ends[-1][0] - self._ends[0][0]
        waited = sum(wait for _, _, wait in self._ends) - self._ends[0][2]
        return min(1.0, waited / seconds) if seconds > 0 else None

    @property
    def buckets(self) -> tuple[int, ...]:
        """Number of steps in each bucket of `STEP_SECONDS_BUCKETS`, and in the unbounded one."""
        return tuple(self._buckets)

    @property
    def sum_seconds(self) -> float:
        """Duration of all steps except the first, in seconds."""
        return self._sum_seconds
