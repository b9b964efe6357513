"""Runs code of strangers in a process of its own, with a limit of processor time and memory for each call.

Nothing inside an interpreter bounds such code: one operation in C can take hours or all memory, and no exception
reaches it. The kernel can bound a process. So there is one process (`Child`) for all such code of this process. It
starts with the first call, keeps what it has made, and ends with this process. After a call that went over its budget
it is started again. JSON schemas, which several threads try at once, have processes of their own
(`halcyon.inference.grammar`).
"""

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from hashlib import sha256
from multiprocessing.connection import Connection, Pipe
from typing import Any

from halcyon.host.errors import BadConfiguration
from halcyon.host.limits import child

SECONDS = 2.0
"""Processor time of a call: a chat template takes about a millisecond."""
MEMORY_BYTES = 256 * 2**20
"""Memory of a call."""
_ANSWER_SECONDS = 120.0
"""Longest wait for a call, also on a machine whose processors have much other work."""


_NEEDS = {
    child.TIME: f"{SECONDS:.0f} s of processor time",
    child.KILLED: f"{SECONDS:.0f} s of processor time",
    child.MEMORY: f"{MEMORY_BYTES >> 20} MiB of memory",
    child.LENGTH: f"{child.ANSWER_BYTES >> 20} MiB for what it prints",
}


class OverLimit(BadConfiguration):
    """Code of a stranger needs more time or memory than it may have.

    The message is one sentence with the field or file.
    """


class Failed(Exception):
    """The code raised an exception. The message is that of the exception."""


class Apart:
    """An object in the other process.

    Args:
        where: The field or file that the code is from; errors begin with it.
        kind: Its class. The module of the class should import little, because that takes time at the first call.
        args: Arguments of its class; see `call`.
    """

    def __init__(self, where: str, kind: type[Any], *args: Any) -> None:
        self._where = where
        self._made = (kind.__module__, kind.__name__, args)
        self._key = sha256(_written(self._made)).hexdigest()

    def call(self, method: str, *args: Any) -> Any:
        """Call a method.

        Args:
            method: Its name.
            args: Its arguments. They arrive as JSON expresses them; what JSON does not know arrives as a list or a
                text.

        Returns:
            Its result, which JSON can express.

        Raises:
            Failed: The class or the method raised an exception.
            OverLimit: It needs more time or memory than it may have.
        """
        kind, value = _process.ask(self._key, self._made, method, args, SECONDS, MEMORY_BYTES, _ANSWER_SECONDS)
        if kind in _NEEDS:
            raise OverLimit(
                f"{self._where}: it needs more than {_NEEDS[kind]}, as no usual one does; make it simpler, or do not "
                "use it"
            )
        if kind == child.RAISED:
            raise Failed(value)
        return value


Made = tuple[str, str, tuple[Any, ...]]
"""How an object is made: the module and the name of its class, and arguments."""


def _written(value: Any) -> bytes:
    return json.dumps(value, default=lambda other: other.tolist() if hasattr(other, "tolist") else str(other)).encode()


class Child:
    """Another process, which makes objects and calls their methods, one call at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.killed = False
        """Whether `kill` has ended it."""
        self._forget()

    def _forget(self) -> None:
        self._running: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._made: set[str] = set()

    def ask(
        self,
        key: str,
        made: Made,
        method: str,
        args: tuple[Any, ...],
        seconds: float,
        memory_bytes: int,
        wait_seconds: float,
    ) -> tuple[str, Any]:
        """The kind of the answer of a call, and the answer.

        Args:
            key: Identifies the object.
            made: How it is made, for the first call.
            method: The method.
            args: Its arguments.
            seconds: Processor time of the call; 0: no limit.
            memory_bytes: Memory of this call and all later ones, beyond what the process has; 0: no limit.
            wait_seconds: Longest wait for the answer.
        """
        with self._lock:
            request = _written((key, None if key in self._made else made, method, args, seconds, memory_bytes))
            connection = self._started()
            try:
                connection.send_bytes(request)
                answer = connection.recv_bytes() if connection.poll(wait_seconds) else None
            except (EOFError, OSError):
                answer = None
            if answer is None:
                # Without memory, a library may end the process itself.
                return _KINDS.get(self._end(), child.MEMORY), None
            self._made.add(key)
            kind, value = json.loads(answer)
            return kind, value

    def _started(self) -> Connection:
        if self._connection is None:
            ours, theirs = Pipe()
            with theirs:
                paths = json.dumps([path for path in sys.path if path])
                self._running = subprocess.Popen(
                    [sys.executable, "-P", "-c", _START, paths, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
            self._connection = ours
            if self.killed:
                self._running.kill()
        return self._connection

    def _end(self) -> int:
        """End the process. Returns its exit code; 0: it was not started."""
        code = 0
        if self._connection is not None and self._running is not None:
            self._running.kill()
            self._connection.close()
            code = self._running.wait()
        self._forget()
        return code

    def kill(self) -> None:
        """End the process for ever, also while another thread waits for its answer."""
        self.killed = True
        if (running := self._running) is not None:
            running.kill()

    def end(self) -> None:
        """End the process, if it was started."""
        with self._lock:
            self._end()

    def forget_in_child(self) -> None:
        """After a fork: the process belongs to the parent."""
        if self._connection is not None:
            self._connection.close()
        if self._running is not None:
            self._running.returncode = 0  # the parent waits for it
        self._lock = threading.Lock()
        self._forget()


_START = (
    "import sys, json; sys.path[:] = json.loads(sys.argv.pop(1)); from halcyon.host.limits.child import main; main()"
)
_KINDS = {-signal.SIGPROF: child.TIME, -signal.SIGKILL: child.KILLED}
_process = Child()
atexit.register(_process.end)
os.register_at_fork(after_in_child=_process.forget_in_child)
