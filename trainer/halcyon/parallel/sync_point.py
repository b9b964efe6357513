"""Agrees on the point at which all processes stop after a preemption notice, at once and independently of the steps.

All processes pass the same points in the same order: before each step, and before each batch of an evaluation. A
process with a notice sends it over the lifeline. Process 0 asks every process for the number of points that it has
passed; a process passes no further point after its answer. All processes stop at the greatest answer. The threads of
the lifeline ask and answer, even if the main threads wait, so the agreement takes one round trip and ends long before
the step in progress. Every step that is still run had already begun on some process: with steps of seconds and 15
seconds of grace, this leaves time for a save.
"""

import threading
from collections.abc import Callable

from halcyon.parallel.process_group import ProcessGroup

_NOTICE = b"n"
"""To process 0: this process has a notice."""
_ASK = b"a"
"""From process 0: pass no further point until the last point is decided, and send the number of passed points."""
_PASSED = b"p"
"""To process 0: the number of passed points."""
_STOP = b"l"
"""From process 0: stop after this number of points."""


class SyncPoint:
    """One process's part in the agreement.

    Create it in the main thread, once, after `join` and before the first point.

    Args:
        processes: The processes.
        on_notice: Called in any thread when any process has a notice; possibly more than once.
    """

    def __init__(self, processes: ProcessGroup, on_notice: Callable[[], object] = lambda: None) -> None:
        self._on_notice = on_notice
        self._is_main = processes.is_main
        self._process_count = processes.process_count
        self._lifeline = processes.lifeline
        self._changed = threading.Condition()
        self._passed = 0
        self._asked = False
        self._stop_after: int | None = None
        self._answers: list[int] = []
        if self._lifeline is not None:
            self._lifeline.listen(self._on_message)

    def should_stop(self) -> bool:
        """Whether all processes stop here. Call it in the main thread, at each point, in the same order on all
        processes.

        Waits for the agreement if a notice has just come to any process.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._stop_after is not None or not self._asked)
            if self._stop_after is not None and self._passed >= self._stop_after:
                return True
            self._passed += 1
            return False

    @property
    def is_asked(self) -> bool:
        """Whether a notice came to any process, as far as this one knows.

        For work between two points that ends early.
        """
        with self._changed:
            return self._asked or self._stop_after is not None

    def notice(self) -> None:
        """Report a preemption notice of this process. For any thread; further calls have no effect on the agreement."""
        self._on_notice()
        if self._is_main:
            self._ask()
        else:
            self._send(_NOTICE)

    def _ask(self) -> None:
        with self._changed:
            if self._asked:
                return
            self._asked = True
            self._answers.append(self._passed)
        self._send(_ASK)
        self._decide()

    def _decide(self) -> None:
        with self._changed:
            if len(self._answers) < self._process_count:
                return
            self._stop_after = max(self._answers)
            self._changed.notify_all()
        self._send(_STOP, self._stop_after)

    def _send(self, kind: bytes, value: int = 0) -> None:
        if self._lifeline is not None:
            self._lifeline.send(kind, value)

    def _on_message(self, kind: bytes, value: int) -> None:
        """Handle a message of another process, in a thread of the lifeline."""
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
            self._send(_PASSED, passed)
        elif kind == _STOP:
            with self._changed:
                self._stop_after = value
                self._changed.notify_all()
