"""A process that has imported the trainer and forks a child for each program that a test starts.

``python -m tests.trainer.fork_server FD``. Importing the trainer takes longer than most of what a test wants of it. The server imports
once; a child is forked before JAX has a backend or any thread runs, and then is as good as a new interpreter: its own environment,
arguments, working directory and standard streams, its module run as ``__main__``, its time of start that of the fork. One thing is the same
in all of them: the seed of hashes.

FD is a socket. Each message is a request (see `tests.trainer.forked`), with the descriptors of the child's three streams and of a socket
for its exit. On that socket the server sends the child's number and, when it has ended, its exit code. It reaps the child when the other
end is closed, so that the number means this child until then; and it kills a child that has not ended by then. When FD is closed it kills
all.
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

from halcyon.machine.lean_imports import without_collections, without_unused_parts

NUMBER = struct.Struct("i")
REQUEST_BYTES = 1 << 18
STREAMS = 3
PRELOADED = ("halcyon.cli.main", "halcyon.process", "halcyon.tasks.train", "halcyon.tasks.evaluate", "tests.trainer.checkpoint.helpers")


@dataclass
class Child:
    """A forked process."""

    pid: int
    line: socket.socket
    ended: bool = False

    def tell_end(self) -> None:
        """Send the exit code if it has ended. It stays a zombie."""
        status = None if self.ended else os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if status is None:
            return
        self.ended = True
        code = status.si_status if status.si_code == os.CLD_EXITED else -status.si_status
        try:
            self.line.send(NUMBER.pack(code))
        except OSError:
            return  # nobody waits for it any more

    def reap(self) -> None:
        """Leave nothing of it."""
        if not self.ended:
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.line.close()


class Server:
    """Forks, reports and reaps."""

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
        """Until nobody asks any more. In a child it returns too, at once: with the request."""
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
        """Whether this is the child."""
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
        """Close in a child what is the server's."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._selector.close()
        for mine in (self._control, self._wakeup, self._signalled, *(child.line for child in self._children)):
            mine.close()


_streams_of_the_server: list[object] = []
"""Kept: a stream that is dropped closes its descriptor."""


def _open_streams() -> None:
    """Streams that know what they are open on now: those of the server may have been files, where these are pipes."""
    _streams_of_the_server.extend((sys.stdin, sys.stdout, sys.stderr))
    sys.stdin = sys.__stdin__ = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.__stderr__ = os.fdopen(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


def main() -> None:
    """Import, then serve; and in each child run what is asked for."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal, where it is meant for the tests
    with without_collections(), without_unused_parts():
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
