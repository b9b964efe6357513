"""Durations of steps by their size: the limit for a hung step is computed from them.

The first step of a size is not counted, because the loop may wait for the compilation of its program. The memory is bounded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable

_REMEMBERED_STEPS = 512
_REMEMBERED_SIZES = 64
"""A run has at most 33 sizes: the first one, and one for each of at most 32 entries of `trainer.batchSchedule`."""
_UNDER_WAY = 2
"""Steps that may be in progress: the loop dispatches a step before it fetches the numbers of the step before."""


class Durations:
    """Durations of steps, in seconds.

    Args:
        size_of: The size of a step by its number, counted from 0: steps of the same size run the same program.
    """

    def __init__(self, size_of: Callable[[int], Hashable]) -> None:
        self._size_of = size_of
        self._by_size: dict[Hashable, deque[float]] = {}

    def step_ended(self, done: int, seconds: float, steps: int = 1) -> None:
        """Record the end of one or several steps.

        Args:
            done: Steps done.
            seconds: Their duration, without evaluations, saves and pauses of the machine.
            steps: The number of steps that ended; each counts with an equal share of the time.
        """
        size = self._size_of(done - 1)
        known = self._by_size.get(size)
        if known is None:
            if len(self._by_size) < _REMEMBERED_SIZES:
                self._by_size[size] = deque(maxlen=_REMEMBERED_STEPS)
            return
        known.extend([max(0.0, seconds) / max(1, steps)] * min(max(1, steps), _REMEMBERED_STEPS))

    def of_steps_in_progress(self, done: int) -> tuple[tuple[float, ...], ...]:
        """For each size of the steps that may be in progress, its recorded durations, oldest first; empty for a new size.

        Args:
            done: Steps done.
        """
        sizes = dict.fromkeys(self._size_of(step) for step in range(done, done + _UNDER_WAY))
        return tuple(tuple(self._by_size.get(size, ())) for size in sizes)
