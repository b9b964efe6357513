"""Asks sources again that do not answer, or refuse, for a while.

What is tried again is a whole look or a whole build, which goes on from the last shard that is committed; so no reader has to know of it.
The time begins anew only with something that no later try does again: a listing that was answered, a committed shard. A build that fails
at the same file each time does not get more time by reading up to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from halcyon.errors import DataUnreachable, Preempted
from halcyon.storage.patience import SOURCES, Patience, WaitStopped

_T = TypeVar("_T")


class SourceRetries:
    """The waits for sources of one process.

    Args:
        patience: How long it waits; None: not at all.
        before_retry: Is called before each new try.
    """

    def __init__(self, patience: Patience | None, before_retry: Callable[[], object]) -> None:
        self._patience = patience
        self._before_retry = before_retry
        self._began: float | None = None
        self._tries = 0
        self._waits = False

    def until_answered(self, attempt: Callable[[], _T]) -> _T:
        """What an attempt returns, which is made again while sources are out of reach.

        Raises:
            DataUnreachable: They were for too long.
            Preempted: A notice of preemption came while it waited.
            Exception: Whatever else the attempt raises.
        """
        try:
            while True:
                try:
                    result = attempt()
                except DataUnreachable as failure:
                    self._wait(failure)
                else:
                    self.advanced()
                    return result
        finally:
            self._end(answers=False)

    def answered(self) -> None:
        """Something was read."""
        self._end(answers=True)

    def advanced(self) -> None:
        """Something was read that no later try reads again: the next refusal has all the time."""
        self._end(answers=True)
        self._began, self._tries = None, 0

    def _wait(self, failure: DataUnreachable) -> None:
        if self._patience is None:
            raise failure
        self._tries += 1
        try:
            self._began = self._patience.wait(SOURCES, failure, self._tries, self._began, announced=self._waits)
        except WaitStopped:
            raise Preempted(f"a notice of preemption came while a source of data was out of reach ({failure})") from None
        self._waits = True
        self._before_retry()

    def _end(self, *, answers: bool) -> None:
        if self._waits and self._patience is not None and self._began is not None:
            self._waits = False
            self._patience.ended(SOURCES, self._began, answers=answers)
