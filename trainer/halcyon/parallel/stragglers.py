"""The rule that names a process whose own work takes longer than that of the others. Pure.

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
