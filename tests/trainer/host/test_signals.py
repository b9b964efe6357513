"""A signal is received at once, whatever the main thread does, and whichever thread the kernel gives it to."""

from __future__ import annotations

import signal
import threading
from typing import Any

import pytest

from halcyon.host.signals import SignalThread, ending_signals
from tests.suite.limits import limit


def test_a_signal_to_another_thread_is_received_while_the_main_thread_waits() -> None:
    received, release, before = threading.Event(), threading.Event(), signal.getsignal(signal.SIGTERM)
    other = threading.Thread(target=release.wait)
    other.start()
    signals = SignalThread(
        (signal.SIGTERM,), lambda numbers: received.set() if signal.SIGTERM in numbers else None, name="test"
    )
    try:
        assert other.ident is not None
        # A handler in the main thread would run only after its wait.
        threading.Thread(target=signal.pthread_kill, args=(other.ident, signal.SIGTERM)).start()
        assert received.wait(limit(10))
    finally:
        signals.close()
        release.set()
        other.join()
    assert signal.getsignal(signal.SIGTERM) == before
    assert not [thread for thread in threading.enumerate() if thread.name == "test"]


@pytest.mark.parametrize(
    ("handler", "signals"),
    [
        (signal.default_int_handler, (signal.SIGTERM, signal.SIGINT)),
        (signal.SIG_DFL, (signal.SIGTERM, signal.SIGINT)),
        (signal.SIG_IGN, (signal.SIGTERM,)),
    ],
    ids=["python's handler", "the system's default", "ignored"],
)
def test_an_interrupt_ends_a_process_unless_it_is_ignored(handler: Any, signals: tuple[signal.Signals, ...]) -> None:
    # The shell that started the tests may have set it to any of the three.
    before = signal.signal(signal.SIGINT, handler)
    try:
        assert ending_signals() == signals
    finally:
        signal.signal(signal.SIGINT, before)
