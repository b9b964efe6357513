"""The rules that name what takes longer than the others: a process, by its own work, or any of several. Pure.

One slow measurement says nothing: a process is judged by the mean of its last ones, so that a processor that stands
still for a part of the time counts by this part, and only after twice as many in a row.
"""

from collections import deque
from collections.abc import Sequence

import numpy as np

from halcyon_api.spec.recovery import StragglerSpec
from halcyon_api.status.progress import SlowProcess

_MEAN = 8
"""Measurements in a mean."""


LEAST_SHARE = 0.4
"""Share of its nominal speed that a device of a healthy host reaches in a large product or a large copy. Most reach 0.6
to 0.9 (docs/performance.md).
"""


def slow_at_start(seconds: np.ndarray, promised: Sequence[float], factor: float) -> tuple[int, float] | None:
    """The slowest process, with its time as a multiple of the median of all or, if that is more, of the longest that
    its hardware may take, times `factor`. None: no multiple is above `factor`.

    Args:
        seconds: Of each measurement: [process, measurement].
        promised: Seconds of each measurement at the nominal speed; infinite: not known.
        factor: ``spec.recovery.straggler.factor``.
    """
    ratios = np.maximum(_ratios(seconds), factor * LEAST_SHARE * seconds / promised).max(1)
    process = int(np.argmax(ratios))
    return (process, float(ratios[process])) if ratios[process] > factor else None


def _ratios(seconds: np.ndarray) -> np.ndarray:
    """The times as multiples of their lower median along the first axis."""
    return seconds / np.sort(seconds, axis=0)[(len(seconds) - 1) // 2]


def slower(seconds: np.ndarray, factor: float) -> dict[int, float]:
    """Those that take more than a multiple of the median, each with its multiple. Of an even number, the lower median
    counts: half of them may be slow.

    Args:
        seconds: [one].
        factor: The multiple.
    """
    ratios = _ratios(seconds)
    return {int(one): float(ratios[one]) for one in np.flatnonzero(ratios > factor)}


class StragglerRule:
    """Names the slow process.

    Args:
        spec: ``spec.recovery.straggler``.
        processes: Number of processes.
        at_start: The process that was slow before the first step. It is until there are enough measurements.
    """

    def __init__(self, spec: StragglerSpec, processes: int, at_start: SlowProcess | None = None) -> None:
        self._spec, self._at_start, self._number = spec, at_start, 0
        self._last: deque[np.ndarray] = deque(maxlen=_MEAN)
        self._since, self._times = np.zeros(processes), np.zeros(processes)
        """For each process, the step since which it is slow, and its measurements since then."""

    def measured(self, step: int, seconds: np.ndarray) -> SlowProcess | None:
        """The process that is slow after a measurement; of several, the slowest.

        Args:
            step: Steps done.
            seconds: Seconds of each process: [process].
        """
        self._last.append(seconds)
        self._number += 1
        mean = np.mean(self._last, axis=0)
        if len(mean) < 2:
            return None
        # For the slowest process, the median of all others.
        ratios = mean / np.median(np.sort(mean)[:-1])
        slow = ratios > self._spec.factor
        self._since = np.where(slow & (self._times > 0), self._since, step)
        self._times = np.where(slow, self._times + 1, 0)
        named = (self._times >= 2 * _MEAN) & (step - self._since >= self._spec.for_steps)
        process = int(np.argmax(named * ratios))
        if not named[process]:
            return self._at_start if self._number < 2 * _MEAN else None
        return SlowProcess(process=process, step=step, ratio=round(float(ratios[process]), 2))
