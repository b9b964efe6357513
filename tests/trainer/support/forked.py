"""Programs that import the trainer, each forked from a process that has already imported it (see `fork_server`)."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from halcyon_devcluster.machine import limit
from tests.trainer.support.fork_server import NUMBER, REQUEST_BYTES

REPOSITORY = Path(__file__).parents[3]


class Forked:
    """A running program. Methods and attributes that `subprocess.Popen` has too have the same names.

    Args:
        module: The module, run as with ``python -m``.
        arguments: The arguments of the module.
        environment: The environment of the program. JAX runs on the CPU.
    """

    def __init__(self, module: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        if environment.get("JAX_PLATFORMS", "cpu") != "cpu":
            raise ValueError("a forked program has the CPU only")
        self.args = [module, *arguments]
        self.returncode: int | None = None
        (stdin, to_stdin), (from_stdout, stdout), (from_stderr, stderr) = os.pipe(), os.pipe(), os.pipe()
        self.stdin = os.fdopen(to_stdin, "w", encoding="utf-8")
        self.stdout = os.fdopen(from_stdout, encoding="utf-8")
        self.stderr = os.fdopen(from_stderr, encoding="utf-8")
        self._line, line = socket.socketpair()
        request = {
            "module": module,
            "arguments": arguments,
            "environment": dict(environment),
            "directory": str(REPOSITORY),
        }
        text = json.dumps(request).encode()
        if len(text) > REQUEST_BYTES:
            raise ValueError("the request to the fork server is too long")
        socket.send_fds(_server(), [text], [stdin, stdout, stderr, line.fileno()])
        line.close()
        for descriptor in (stdin, stdout, stderr):
            os.close(descriptor)
        self.pid = int(NUMBER.unpack(self._line.recv(NUMBER.size))[0])

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        return self._code(0)

    def wait(self, timeout: float | None = None) -> int:
        """The exit code.

        Raises:
            TimeoutExpired: It still runs.
        """
        code = self._code(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """Kill it if it still runs, and close its streams."""
        self.kill()
        self.wait()
        for stream in (self.stdin, self.stdout, self.stderr):
            stream.close()

    def _code(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            self._line.settimeout(timeout)
            try:
                answer = self._line.recv(NUMBER.size)
            except (BlockingIOError, TimeoutError):
                return None
            if not answer:
                raise RuntimeError("the fork server has ended")
            self._line.close()
            self.returncode = int(NUMBER.unpack(answer)[0])
        return self.returncode


@functools.cache
def _server() -> socket.socket:
    """The socket of this process's fork server."""
    mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("HALCYON_", "JAX_", "XLA_", "AWS_"))
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.trainer.support.fork_server", str(its.fileno())],
        cwd=REPOSITORY,
        env=environment | {"JAX_PLATFORMS": "cpu"},
        stdin=subprocess.DEVNULL,
        pass_fds=[its.fileno()],
    )
    its.close()

    def close() -> None:
        mine.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(limit(10))

    atexit.register(close)
    return mine
