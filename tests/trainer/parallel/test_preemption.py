"""A notice is recorded at once, even while the main thread is busy; afterwards SIGTERM has its former handler."""

import os
import signal
import threading

import pytest

from halcyon.parallel.preemption import PreemptionNotice, wait_together
from halcyon.parallel.process_group import ProcessGroup
from halcyon_devcluster.waiting import holds_within

ALONE = ProcessGroup(0, 1)


def arrived(notice: PreemptionNotice) -> bool:
    return holds_within(lambda: notice.arrived, 10, interval_seconds=0.001)


def test_a_signal_is_recorded_and_its_former_handler_is_restored() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with PreemptionNotice() as notice:
        assert (notice.arrived, notice.age_seconds) == (False, 0.0)
        os.kill(os.getpid(), signal.SIGTERM)
        assert arrived(notice)
        assert notice.age_seconds > 0
    assert signal.getsignal(signal.SIGTERM) == before
    assert not [thread for thread in threading.enumerate() if thread.name == "halcyon-notice"]


def test_a_notice_is_recorded_at_the_signal_and_not_at_the_next_python_call() -> None:
    """A C call such as a step holds the main thread: Python's handler runs only after it, but the listening thread runs
    before.
    """
    with PreemptionNotice() as notice:
        handled: list[bool] = []
        notice._on_signal = lambda *_: handled.append(True)  # type: ignore[method-assign]
        signal.signal(signal.SIGTERM, notice._on_signal)
        os.kill(os.getpid(), signal.SIGTERM)
        assert arrived(notice), "the handler records nothing here, so the thread must have recorded it"


def test_other_signals_are_no_notice() -> None:
    previous = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        with PreemptionNotice() as notice:
            os.kill(os.getpid(), signal.SIGUSR1)
            notice._signals._writing.send(b"\0")
            assert not notice.arrived
    finally:
        signal.signal(signal.SIGUSR1, previous)


def test_waiting_ends_when_the_condition_holds_or_a_notice_arrives() -> None:
    with PreemptionNotice() as notice:
        answers = iter((False, False, True))
        assert wait_together(ALONE, notice, lambda seconds: next(answers))
        os.kill(os.getpid(), signal.SIGTERM)
        assert arrived(notice)
        assert wait_together(ALONE, notice, lambda seconds: True), "if the condition already holds, there is no wait"
        assert not wait_together(ALONE, notice, lambda seconds: False)


def test_a_single_process_agrees_with_itself() -> None:
    assert ALONE.is_main
    assert ALONE.agree({"step": 3, "name": "Zoë"}) == {"step": 3, "name": "Zoë"}
    assert ALONE.greatest(1.5, -1.0) == (1.5, -1.0)
    with pytest.raises(ValueError, match="process 0 must give the document"):
        ALONE.agree(None)
