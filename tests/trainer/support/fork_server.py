"""A process that has imported the trainer and forks a child for each program that a test starts.

``python -m tests.trainer.support.fork_server FD``. The import of the trainer takes longer than most tests of it. The
server imports it once. It forks each child before JAX has a backend and before any thread runs, so the child is like a
new interpreter: it has its own environment, arguments, working directory and standard streams, runs its module as
``__main__``, and starts at the time of the fork. Only the hash seed is the same in all children.

FD is a socket. Each message is a request (see `tests.trainer.support.forked`), with the descriptors of the child's
three streams and of a socket for its exit. On that socket the server sends the child's process id and, after its end,
its exit code. When the other end is closed, the server kills the child if it still runs, and reaps it; until then the
process id belongs to this child. When FD is closed, the server kills all children.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import struct
import sys
from dataclasses import dataclass
from typing import Any

NUMBER = struct.Struct("i")
REQUEST_BYTES = 1 << 18
STREAMS = 3
PRELOADED = (
    "halcyon.commands.main",
    "halcyon.run.process",
    "halcyon.run.train",
    "halcyon.run.evaluate",
    "tests.trainer.checkpoint.helpers",
)


@dataclass
class Child:
    """A forked process."""

    pid: int
    line: socket.socket
    ended: bool = False

    def tell_end(self) -> None:
        """Send the exit code if the child has ended. The child stays a zombie."""
        status = None if self.ended else os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if status is None:
            return
        self.ended = True
        code = status.si_status if status.si_code == os.CLD_EXITED else -status.si_status
        try:
            self.line.send(NUMBER.pack(code))
        except OSError:
            return  # the test no longer waits for it

    def reap(self) -> None:
        """Kill the child if it still runs, and reap it."""
        if not self.ended:
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.line.close()


class Server:
    """Forks children, sends their exit codes, and reaps them."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._children: list[Child] = []
        self._wakeup, wakeup = socket.socketpair()
        wakeup.setblocking(False)
        self._signalled = wakeup
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ)
        self._selector.register(self._wakeup, selectors.EVENT_READ)

    def serve(self) -> dict[str, Any] | None:
        """Serve until FD is closed; returns None. In a forked child, returns the request at once."""
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._control:
                    text, descriptors, _, _ = socket.recv_fds(self._control, REQUEST_BYTES, STREAMS + 1)
                    if not text:
                        for child in self._children:
                            child.reap()
                        return None
                    if self._fork(descriptors):
                        return dict(json.loads(text))
                elif key.fileobj is self._wakeup:
                    self._wakeup.recv(4096)
                    for child in self._children:
                        child.tell_end()
                elif isinstance(key.data, Child) and key.data in self._children:
                    self._selector.unregister(key.fileobj)
                    self._children.remove(key.data)
                    key.data.reap()

    def _fork(self, descriptors: list[int]) -> bool:
        """Fork a child; True in the child, False in the server."""
        pid = os.fork()
        if pid == 0:
            self._forget()
            for stream, descriptor in enumerate(descriptors[:STREAMS]):
                os.dup2(descriptor, stream)
            for descriptor in descriptors:
                os.close(descriptor)
            _open_streams()
            return True
        for descriptor in descriptors[:STREAMS]:
            os.close(descriptor)
        child = Child(pid, socket.socket(fileno=descriptors[STREAMS]))
        child.line.send(NUMBER.pack(pid))
        self._children.append(child)
        self._selector.register(child.line, selectors.EVENT_READ, child)
        return False

    def _forget(self) -> None:
        """Close the server's descriptors in a child, and reset its signal handlers."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._selector.close()
        for mine in (self._control, self._wakeup, self._signalled, *(child.line for child in self._children)):
            mine.close()


_streams_of_the_server: list[object] = []
"""References to the server's streams: a stream closes its descriptor when it is garbage-collected."""


def _open_streams() -> None:
    """Open new streams on the child's descriptors: the server's may have been files, and these are pipes."""
    _streams_of_the_server.extend((sys.stdin, sys.stdout, sys.stderr))
    sys.stdin = sys.__stdin__ = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.__stderr__ = os.fdopen(
        2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
    )


def main() -> None:
    """Import the trainer, then serve; in each child, run the requested module."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the tests
    for module in PRELOADED:
        importlib.import_module(module)
    request = Server(socket.socket(fileno=int(sys.argv[1]))).serve()
    if request is not None:
        os.environ.clear()
        os.environ |= request["environment"]
        os.chdir(request["directory"])
        module = request["module"]
        sys.argv = [module, *request["arguments"]]
        sys.modules.pop(module, None)
        runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
