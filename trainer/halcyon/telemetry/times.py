"""The times of a process: what each second was spent on, how fast its steps are, and how long steps of each size take.

All three are frozen values, which a report replaces. Their memory is bounded, whatever the length of the run. The first
step of a process counts neither for the speed nor for the durations, because it includes tracing and compilation.
"""

from __future__ import annotations

import bisect
from collections.abc import Hashable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from halcyon.host.clock import microseconds
from halcyon.telemetry.stages import STAGES
from halcyon_api.status.goodput import CAUSES, GoodputSeconds
from halcyon_api.status.progress import Stage, StartupSeconds

STEP_SECONDS_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0)
"""Upper bounds of the histogram of step durations, in seconds; one more bucket is unbounded."""

_SPEED_STEPS = 64
_REMEMBERED_STEPS = 512
"""Steps of a size that are remembered."""
_REMEMBERED_SIZES = 64
"""A run has at most 33 sizes: the first one, and one for each of at most 32 entries of `trainer.batchSchedule`."""
STEPS_UNDER_WAY = 2
"""Steps that may be in progress: the loop dispatches a step before it fetches the numbers of the step before."""
_MOST_MARKS = 256
"""Steps whose time is remembered: the last ones, and of the older ones each second, fourth, …"""
_PRODUCTIVE = "productive_step"


class TimeAccount(NamedTuple):
    """The time of a process, from its start to `counted_until`: every second under exactly one cause.

    Time is counted by what the loop, which is one thread, does or waits for. So a batch that was ready in time costs
    nothing, whatever time other threads took to make it, and a save costs only the time that it blocked the loop.
    """

    counted_until: float
    """Seconds of a monotonic clock; in a new account the start of the process."""
    work: Stage = "training"
    """The stage of the run's productive work."""
    by_cause: Mapping[str, float] = MappingProxyType(dict.fromkeys(CAUSES, 0.0))
    start: Mapping[str, float] = MappingProxyType({})
    """Seconds until the first step has ended, by the names of `StartupSeconds`; a save before it is in no part."""
    stepped: bool = False
    """Whether the first step has ended: from then on, steps are productive."""
    marks: tuple[tuple[int, float], ...] = ()
    """Steps, and the seconds of productive steps until their ends, for `went_back`."""

    def until(
        self, stage: Stage, now: float, *, waited: float = 0.0, stepped: bool = False, step: int | None = None
    ) -> TimeAccount:
        """Count the time since `counted_until` under the cause of a stage.

        Args:
            stage: The stage that the process has been in.
            now: Seconds of the monotonic clock.
            waited: The last seconds of this stage, in which the loop waited for a batch: their cause is ``data_wait``.
            stepped: A step ends now, or another part of the productive work begins.
            step: Steps done, if a step of a training ends.
        """
        seconds = max(0.0, now - self.counted_until)
        (cause, part, *_), by_cause, start, marks = STAGES[stage], dict(self.by_cause), self.start, self.marks
        if stage == self.work:
            cause = _PRODUCTIVE
        if not self.stepped:
            cause = "compile" if cause == _PRODUCTIVE else cause
            if part is not None:
                start = {**start, part: microseconds(start.get(part, 0.0) + seconds)}
        by_cause[cause] += seconds
        if waited:
            moved = min(waited, by_cause[cause])
            by_cause[cause] -= moved
            by_cause["data_wait"] += moved
        if step is not None:
            if len(marks) >= _MOST_MARKS:
                marks = marks[: _MOST_MARKS // 2 : 2] + marks[_MOST_MARKS // 2 :]
            marks += ((step, by_cause[_PRODUCTIVE]),)
        return TimeAccount(self.counted_until + seconds, self.work, by_cause, start, self.stepped or stepped, marks)

    def went_back(self, stage: Stage, step: int, now: float) -> TimeAccount:
        """Move the time of the steps after this one to the cause ``lost_work``, because the process does them again."""
        counted = self.until(stage, now)
        productive = counted.by_cause[_PRODUCTIVE]
        kept = min(counted._seconds_until(step), productive)
        by_cause = {
            **counted.by_cause,
            _PRODUCTIVE: kept,
            "lost_work": counted.by_cause["lost_work"] + productive - kept,
        }
        return counted._replace(by_cause=by_cause, marks=self.marks[: _after(self.marks, step)])

    def _seconds_until(self, step: int) -> float:
        """The seconds of productive steps until the end of a step of the past; 0 for a step before those of this
        process.
        """
        after = _after(self.marks, step)
        if after == 0:
            return 0.0
        low, below = self.marks[after - 1]
        if after == len(self.marks) or low == step:
            return below
        high, above = self.marks[after]
        return below + (above - below) * (step - low) / (high - low)

    @property
    def seconds(self) -> GoodputSeconds:
        """All seconds by cause, each rounded to a millisecond. Their sum is the age of the process."""
        return GoodputSeconds(**{cause: round(seconds, 3) for cause, seconds in self.by_cause.items()})

    @property
    def startup(self) -> StartupSeconds:
        """The parts of the start that have ended."""
        return StartupSeconds(**self.start)


def _after(marks: tuple[tuple[int, float], ...], step: int) -> int:
    """The index of the first mark after a step."""
    return bisect.bisect_right(marks, (step, float("inf")))


class Pace(NamedTuple):
    """The speed of the steps, measured from their ends, without evaluations and saves between them."""

    ends: tuple[tuple[float, int, float], ...] = ()
    """Of the last steps: `sum_seconds` at the end, steps done, and seconds that it waited for data."""
    buckets: tuple[int, ...] = (0,) * (len(STEP_SECONDS_BUCKETS) + 1)
    """Number of steps in each bucket of `STEP_SECONDS_BUCKETS`, and in the unbounded one."""
    sum_seconds: float = 0.0
    """Duration of all steps except the first, in seconds."""
    last_ended: float | None = None
    """When the last step ended, in seconds of the monotonic clock; None before the first."""

    def step_ended(self, now: float, step: int, wait_seconds: float = 0.0, *, since: float = 0.0) -> Pace:
        """Add the end of a step. If several ended since the last call, each counts with an equal share of the time.

        Args:
            now: Time of the end, in seconds of a monotonic clock.
            step: Steps done.
            wait_seconds: Time that the steps since the last call waited for data.
            since: When the loop went on with steps, if it did something else since the last end.
        """
        buckets, total = self.buckets, self.sum_seconds
        if self.last_ended is not None:
            _, before, _ = self.ends[-1]
            steps = max(1, step - before)
            seconds = max(0.0, now - max(self.last_ended, since)) / steps
            found = bisect.bisect_left(STEP_SECONDS_BUCKETS, seconds)
            counts = list(buckets)
            counts[found] += steps
            buckets = tuple(counts)
            total += seconds * steps
        end = ((total, step, wait_seconds),)
        return Pace(self.ends[-_SPEED_STEPS:] + end, buckets, total, now)

    @property
    def steps_per_second(self) -> float | None:
        """Speed over the last steps; None before the second step."""
        if len(self.ends) < 2:
            return None
        (first, before, _), (last, step, _) = self.ends[0], self.ends[-1]
        return (step - before) / (last - first) if last > first else None

    @property
    def wait_ratio(self) -> float | None:
        """Share of the time of the last steps in which they waited for data; None before the second step."""
        if len(self.ends) < 2:
            return None
        seconds = self.ends[-1][0] - self.ends[0][0]
        waited = sum(wait for _, _, wait in self.ends[1:])
        return min(1.0, waited / seconds) if seconds > 0 else None


class Durations(NamedTuple):
    """Durations of steps by their size, in seconds: the limit for a hung step is computed from them.

    Steps of the same size run the same program. The first step of a size is not counted, because the loop may wait for
    the compilation of its program.
    """

    by_size: Mapping[Hashable, tuple[float, ...]] = MappingProxyType({})
    """The last durations of each size, oldest first."""

    def step_ended(self, size: Hashable, seconds: float, steps: int = 1) -> Durations:
        """Add the end of one or several steps.

        Args:
            size: Their size.
            seconds: Their duration, without evaluations, saves and pauses of the machine.
            steps: The number of steps that ended; each counts with an equal share of the time.
        """
        if size not in self.by_size:
            return self if len(self.by_size) >= _REMEMBERED_SIZES else Durations({**self.by_size, size: ()})
        steps = max(1, steps)
        known = self.by_size[size] + (max(0.0, seconds) / steps,) * min(steps, _REMEMBERED_STEPS)
        return Durations({**self.by_size, size: known[-_REMEMBERED_STEPS:]})

    def of(self, sizes: Mapping[Hashable, object]) -> tuple[tuple[float, ...], ...]:
        """The recorded durations of each size, oldest first; empty for a new size."""
        return tuple(self.by_size.get(size, ()) for size in sizes)
