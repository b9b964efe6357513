"""The rules that name what takes longer than the others: a process, by its own work, or any of several. Pure.

One slow measurement says nothing: a process is judged by the mean of its last ones, so that a processor that stands
still for a part of the time counts by this part, and only after twice as many in a row.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from halcyon_api.spec.recovery import StragglerSpec
from halcyon_api.status.progress import SlowProcess

_MEAN = 8
"""Measurements in a mean."""


def slower(seconds: np.ndarray, factor: float) -> dict[int, float]:
    """Those that take more than a multiple of the median, each with its multiple. Of an even number, the lower median
    counts: half of them may be slow.

    Args:
        seconds: [one].
        factor: The multiple.
    """
    ratios = seconds / np.sort(seconds)[(len(seconds) - 1) // 2]
    return {int(one): float(ratios[one]) for one in np.flatnonzero(ratios > factor)}


class StragglerRule:
    """Names the slow process.

    Args:
        spec: ``spec.recovery.straggler``.
        processes: Number of processes.
    """

    def __init__(self, spec: StragglerSpec, processes: int) -> None:
        self._spec = spec
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
            return None
        return SlowProcess(process=process, step=step, ratio=round(float(ratios[process]), 2))
