"""Long-running commands: a thread reads kubectl that watches objects or follows a log, and starts it again if it ends
too early.

A watch can end by itself (the API server closes it, or is restarted). After a new start it repeats known objects or
lines, so consumers must ignore repetitions.
"""

import json
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from halcyon_devcluster.machine import limit

_PAUSE_SECONDS = 0.5


class Stream:
    """A command whose output lines are consumed by a thread.

    Args:
        command: Program and arguments.
        consume: Called with the lines of one execution of the command; returns when there are no more.
        again: Called when the command has ended; returns whether to start it again.
    """

    def __init__(
        self, command: Sequence[str | Path], consume: Callable[[Iterator[str]], None], again: Callable[[], bool]
    ) -> None:
        self._command = [str(word) for word in command]
        self._consume = consume
        self._again = again
        self._process: subprocess.Popen[str] | None = None
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=f"stream {self._command[-1]}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Kill the command and wait for its thread."""
        self._closed.set()
        with self._lock:
            if self._process is not None:
                self._process.kill()
        self.join()

    def join(self) -> None:
        """Wait until the thread has ended, at most ten seconds of the reference machine."""
        self._thread.join(limit(10))

    def _run(self) -> None:
        while not self._closed.is_set():
            with self._start() as process:
                if process.stdout is not None:
                    with suppress(ValueError):  # the pipe was closed
                        self._consume(iter(process.stdout))
                process.kill()
            if not self._again():
                return
            self._closed.wait(_PAUSE_SECONDS)

    def _start(self) -> subprocess.Popen[str]:
        # Own session: an interrupt from the keyboard must reach only the demo, which then closes its streams.
        with self._lock:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                errors="replace",
                start_new_session=True,
            )
            self._process = process
            if self._closed.is_set():
                process.kill()
        return process


def documents(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Parse the output of `kubectl get --watch --output=json`: indented objects, one after the other. Pure.

    An object ends with its only line that is a closing brace without indentation.
    """
    kept: list[str] = []
    for line in lines:
        kept.append(line)
        if line.rstrip() == "}":
            yield json.loads("".join(kept))
            kept = []
