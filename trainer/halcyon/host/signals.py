"""Signals, received in a thread of their own.

Python runs a signal handler in the main thread, between two of its operations. The main thread may be inside a long
operation, or it may wait for another thread. A signal that comes just before such a wait, or that the kernel gives to
another thread, does not end the wait, so the handler may run minutes later or never. But the C part of Python's signal
handling runs at once, in any thread, and writes the number of the signal to a descriptor. A thread that reads this
descriptor therefore sees each signal immediately.
"""

import signal
import socket
import threading
import traceback
from collections.abc import Callable, Sequence
from types import FrameType


class SignalThread:
    """Calls a function for signals of some kinds, from a thread of its own. Create and close it in the main thread.

    Args:
        kinds: The signals. Their handlers are replaced.
        on_signals: Called in the thread with the numbers of the signals that have come since the last call, also those
            of other kinds.
        name: Name of the thread.
        handler: The handler in the main thread, where one is needed too.
    """

    def __init__(
        self,
        kinds: Sequence[signal.Signals],
        on_signals: Callable[[bytes], object],
        *,
        name: str,
        handler: Callable[[int, FrameType | None], object] = lambda number, frame: None,
    ) -> None:
        self._on_signals = on_signals
        self._reading, self._writing = socket.socketpair()
        self._writing.setblocking(False)
        self._previous = {kind: signal.signal(kind, handler) for kind in kinds}
        self._previous_wakeup = signal.set_wakeup_fd(self._writing.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Restore the earlier handlers and end the thread."""
        if self._writing.fileno() < 0:
            return
        signal.set_wakeup_fd(self._previous_wakeup)
        for kind, handler in self._previous.items():
            signal.signal(kind, handler)
        self._writing.close()
        self._thread.join()
        self._reading.close()

    def _listen(self) -> None:
        while signals := self._reading.recv(64):
            try:
                self._on_signals(signals)
            except Exception as error:  # the next signal must have its effect
                traceback.print_exception(error)


def ending_signals() -> tuple[signal.Signals, ...]:
    """The signals that ask this process to end: SIGTERM, and SIGINT (Ctrl-C).

    SIGINT is left out where it is ignored: a shell that starts a process in the background sets it so, and this must
    not change.
    """
    interrupt = (signal.SIGINT,) if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN else ()
    return (signal.SIGTERM, *interrupt)
