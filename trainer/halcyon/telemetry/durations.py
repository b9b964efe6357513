"""How long steps take, by their size: what the limit of a step that does not end is learned from.

The first step of a size teaches nothing, because the loop may wait for its program to be compiled. What is kept is bounded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable

_REMEMBERED_STEPS = 512
_REMEMBERED_SIZES = 64
"""A run has at most 33 sizes: the first one, and one for each entry of `trainer.batchSchedule`."""
_UNDER_WAY = 2
"""Steps that may be under way: the loop hands out a step before it fetches the numbers of the one before."""


class Durations:
    """Durations of steps, in seconds.

    Args:
        size_of: The size of a step by its number, counted from 0: steps of the same size run the same program.
    """

    def __init__(self, size_of: Callable[[int], Hashable]) -> None:
        self._size_of = size_of
        self._by_size: dict[Hashable, deque[float]] = {}

    def step_ended(self, done: int, seconds: float, steps: int = 1) -> None:
        """A step ended.

        Args:
            done: Steps that are done now.
            seconds: How long it took, without evaluations, saves and pauses of the machine.
            steps: Between how many steps the time is shared, where several ended at once.
        """
        size = self._size_of(done - 1)
        known = self._by_size.get(size)
        if known is None:
            if len(self._by_size) < _REMEMBERED_SIZES:
                self._by_size[size] = deque(maxlen=_REMEMBERED_STEPS)
            return
        known.extend([max(0.0, seconds) / max(1, steps)] * min(max(1, steps), _REMEMBERED_STEPS))

    def under_way(self, done: int) -> tuple[tuple[float, ...], ...]:
        """What is known of the sizes of the steps that may be under way: durations, oldest first. None are known of a new size.

        Args:
            done: Steps that are done.
        """
        sizes = dict.fromkeys(self._size_of(step) for step in range(done, done + _UNDER_WAY))
        return tuple(tuple(self._by_size.get(size, ())) for size in sizes)
