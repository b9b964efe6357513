"""Retries sources that do not answer or deny access, up to a time limit.

The unit of a retry is a whole poll of the caches or a whole build, which resumes after the last committed shard. So the
readers need no retries of this kind. The time limit is reset only by progress that no later try repeats: an answered
listing or a committed shard. A build that fails at the same file each time does not get more time by reading the text
before that file again.
"""

from collections.abc import Callable
from typing import TypeVar

from halcyon.host.errors import DataUnreachable, Preempted
from halcyon.host.storage.retry_budget import SOURCES, RetryBudget, WaitStopped

_T = TypeVar("_T")


class SourceRetries:
    """The retries of one process for its sources.

    Args:
        retry_budget: Decides the delays and the time limit; None: no retries.
        before_retry: Called before each retry.
    """

    def __init__(self, retry_budget: RetryBudget | None, before_retry: Callable[[], object]) -> None:
        self._retry_budget = retry_budget
        self._before_retry = before_retry
        self._began: float | None = None
        self._tries = 0
        self._waits = False

    def retry(self, attempt: Callable[[], _T]) -> _T:
        """Call ``attempt`` until it raises no `DataUnreachable`, and return its result.

        Raises:
            DataUnreachable: The time limit has passed.
            Preempted: A preemption notice arrived during a delay.
            Exception: Any other error of the attempt.
        """
        try:
            while True:
                try:
                    result = attempt()
                except DataUnreachable as failure:
                    self._wait(failure)
                else:
                    self.reset_deadline()
                    return result
        finally:
            self._end(answers=False)

    def source_answered(self) -> None:
        """Report that a source has answered: ends the current wait."""
        self._end(answers=True)

    def reset_deadline(self) -> None:
        """Report progress that no later try repeats: ends the current wait and resets the time limit."""
        self._end(answers=True)
        self._began, self._tries = None, 0

    def _wait(self, failure: DataUnreachable) -> None:
        if self._retry_budget is None:
            raise failure
        self._tries += 1
        try:
            self._began = self._retry_budget.wait(SOURCES, failure, self._tries, self._began, announced=self._waits)
        except WaitStopped:
            raise Preempted(f"a preemption notice arrived while a data source was unreachable ({failure})") from None
        self._waits = True
        self._before_retry()

    def _end(self, *, answers: bool) -> None:
        if self._waits and self._retry_budget is not None and self._began is not None:
            self._waits = False
            self._retry_budget.end_wait(SOURCES, self._began, answers=answers)
