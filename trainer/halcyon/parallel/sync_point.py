"""The point of their common way at which all processes leave after a notice of preemption, agreed at once and beside the steps.

All processes pass the same points in the same order: before each step, before each evaluation. A process with a notice says so over the
lifeline. Process 0 asks everyone how many points they have passed, and each stops counting with its answer; the greatest answer is where
all leave. The threads of the lifeline ask and answer, whatever the main threads wait for, so that the agreement takes one round trip and is
there long before the step under way has ended. No process has to do more than what another one had begun already: with steps of seconds
and 15 seconds of grace, that is what leaves time for a save.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from halcyon.parallel.process_group import ProcessGroup

_NOTICE = b"n"
"""To process 0: there is a notice here."""
_ASK = b"a"
"""From process 0: pass no point until it is known where to leave, and say how many you have passed."""
_PASSED = b"p"
"""To process 0: the answer."""
_LEAVE = b"l"
"""From process 0: leave after this number of points."""


class SyncPoint:
    """One process's part in it.

    Create it in the main thread, once, after joining and before any point is passed.

    Args:
        processes: The processes.
        on_notice: Called in some thread when a notice has come to any process; perhaps more than once.
    """

    def __init__(self, processes: ProcessGroup, on_notice: Callable[[], object] = lambda: None) -> None:
        self._on_notice = on_notice
        self._is_main = processes.is_main
        self._process_count = processes.process_count
        self._lifeline = processes.lifeline
        self._changed = threading.Condition()
        self._passed = 0
        self._asked = False
        self._leave_after: int | None = None
        self._answers: list[int] = []
        if self._lifeline is not None:
            self._lifeline.listen(self._hear)

    def reached(self) -> bool:
        """Whether all leave here. For the main thread, before anything that all processes do together, in the same order on all of them.

        Where a notice has just come to some process, it waits for the agreement.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._leave_after is not None or not self._asked)
            if self._leave_after is not None and self._passed >= self._leave_after:
                return True
            self._passed += 1
            return False

    def notice(self) -> None:
        """A notice of preemption has come to this process. For any thread; more than once is the same as once."""
        self._on_notice()
        if self._is_main:
            self._ask()
        else:
            self._tell(_NOTICE)

    def _ask(self) -> None:
        with self._changed:
            if self._asked:
                return
            self._asked = True
            self._answers.append(self._passed)
        self._tell(_ASK)
        self._decide()

    def _decide(self) -> None:
        with self._changed:
            if len(self._answers) < self._process_count:
                return
            self._leave_after = max(self._answers)
            self._changed.notify_all()
        self._tell(_LEAVE, self._leave_after)

    def _tell(self, kind: bytes, value: int = 0) -> None:
        if self._lifeline is not None:
            self._lifeline.tell(kind, value)

    def _hear(self, kind: bytes, value: int) -> None:
        """What another process says, in a thread of the lifeline."""
        if kind in (_NOTICE, _ASK):
            self._on_notice()
        if kind == _NOTICE and self._is_main:
            self._ask()
        elif kind == _PASSED and self._is_main:
            with self._changed:
                self._answers.append(value)
            self._decide()
        elif kind == _ASK:
            with self._changed:
                self._asked = True
                passed = self._passed
            self._tell(_PASSED, passed)
        elif kind == _LEAVE:
            with self._changed:
                self._leave_after = value
                self._changed.notify_all()
