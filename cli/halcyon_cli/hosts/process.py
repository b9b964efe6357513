"""A process on a host, through the local ssh or srun that started it."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import IO, cast

from halcyon_api.host_lines import BEGAN, PORT, PREFIX, REPORT
from halcyon_api.status.progress import TERMINATION_MESSAGE_LIMIT
from halcyon_cli.hosts.places import Places
from halcyon_cli.hosts.views import Seen

_LAST_LINES_SECONDS = 5.0
"""Longest wait for the rest of the output of a program that has ended."""
_writing = threading.Lock()


@dataclass(frozen=True)
class Surroundings:
    """What the processes of a run need.

    Attributes:
        places: The hosts.
        program: The program of each process.
        clock: The time.
        wake: Called when something happens.
        lost: Hosts that were lost, with the number of the loss. A group adds to it.
    """

    places: Places
    program: Sequence[str]
    clock: Callable[[], datetime]
    wake: Callable[[], None]
    lost: dict[str, int]


class HostProcess:
    """A started process. Its lines are those of this program, but for those for the manager.

    Args:
        seen: What is known at its start.
        command: The local program.
        secret: The first line of its standard input. The end of that is a notice.
        around: The surroundings.
    """

    def __init__(self, seen: Seen, command: Sequence[str], secret: str, around: Surroundings) -> None:
        self.seen = seen
        self.port: int | None = None
        """Of its telemetry, once it is known."""
        self._around = around
        self._report = ""
        self._began: datetime | None = None
        self._hurried = 0
        self._popen = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        self._input = cast("IO[bytes]", self._popen.stdin)
        with suppress(OSError):  # it has ended already
            self._input.write(f"{secret}\n".encode())
            self._input.flush()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def runs(self) -> bool:
        """Whether its end is not known yet."""
        return self.seen.ended_at is None

    def look(self) -> bool:
        """Update what is known. Returns whether the process has ended now."""
        if not self.runs:
            return False
        self.seen = replace(self.seen, began_at=self._began, report=self._report)
        code = self._popen.poll()
        if code is None:
            return False
        ended = self._around.clock()
        self._reader.join(_LAST_LINES_SECONDS)
        self._close()
        lost = self._around.places.lost(self.seen.host, code, began=self._began is not None)
        self.seen = replace(self.seen, began_at=self._began, report=self._report, ended_at=ended, code=code, lost=lost)
        return True

    def end(self, notice: str = "") -> None:
        """Ask the process to save and to end.

        Args:
            notice: Why its host ends too.
        """
        if self.runs and self.seen.asked_at is None:
            self.seen = replace(self.seen, asked_at=self._around.clock(), notice=notice)
            self._close()

    def hurry(self, grace_seconds: float) -> None:
        """End the local program if the process was asked to end this long ago, and kill it after twice the time."""
        asked = self.seen.asked_at
        late = asked is not None and self._around.clock() - asked >= timedelta(
            seconds=grace_seconds * (1 + self._hurried)
        )
        if self.runs and late and self._hurried < 2:
            self._hurried += 1
            with suppress(OSError):
                os.killpg(self._popen.pid, signal.SIGTERM if self._hurried == 1 else signal.SIGKILL)

    def _close(self) -> None:
        with suppress(OSError):
            self._input.close()

    def _read(self) -> None:
        with cast("IO[bytes]", self._popen.stdout) as lines:
            for line in lines:
                if line.startswith(PREFIX.encode()):
                    self._hear(line.decode(errors="replace").rstrip("\n"))
                else:
                    with _writing:
                        sys.stdout.buffer.write(line)
                        sys.stdout.buffer.flush()
        self._around.wake()

    def _hear(self, line: str) -> None:
        if line == BEGAN:
            self._began = self._around.clock()
        elif line.startswith(REPORT):
            self._report = line.removeprefix(REPORT)[: TERMINATION_MESSAGE_LIMIT + 1]
        elif line.startswith(PORT) and (port := line.removeprefix(PORT)[:6]).isdecimal() and int(port) < 2**16:
            self.port = int(port)
        self._around.wake()
