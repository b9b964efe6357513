"""The supervisor: one thread that starts the trainer, and passes on what happens to it."""

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from halcyon.host.agent.leader import Leader
from halcyon.host.agent.lineage import Lineage
from halcyon.host.agent.lines import SILENCE_SECONDS, Lines
from halcyon.host.agent.link import DESCRIPTOR
from halcyon.host.agent.place import Place
from halcyon.host.agent.rendezvous import stays
from halcyon_api.ends import ExitCode

STOP_SECONDS = 3.0
"""Time in which a process ends by itself after another one was lost: it writes its report and keeps its history."""
BEAT_SECONDS = 2.0
"""Seconds between two signs of life to the other supervisors."""
MOST_KILLED = 3
"""Processes in a row that a signal may end before they join."""
MAX_REPORT = 4096
"""Bytes of a termination message that Kubernetes keeps."""
_CONNECT_SECONDS, _RETRY_SECONDS = 3.0, 0.1
_LAST_SECONDS = 60.0
"""Longest wait of the leader, whose process has done its work, for those of the others."""
_FORWARDED = (signal.SIGUSR1, signal.SIGUSR2)
_ENDING = (signal.SIGTERM, signal.SIGINT)


@dataclass
class _Child:
    """A trainer's process."""

    process: subprocess.Popen[bytes]
    lines: Lines
    joined: bool = False
    """Whether it was told to join the others."""


@dataclass
class Supervisor:
    """The supervisor of one pod; `run` returns the exit code of its container.

    Args:
        place: The pod's place in its run.
        arguments: Of the trainer: the run document.
        program: The trainer's process, without its arguments.
    """

    place: Place
    arguments: list[str]
    program: tuple[str, ...] = (sys.executable, "-m", "halcyon.run.in_pod")
    _selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    _code: int | None = None
    _child: _Child | None = None
    _spare: _Child | None = None
    _kill_at: float | None = None
    """When the process is killed that another one's end has made useless."""
    _stopped: bool = False
    _asked_to_end: bool = False
    _done_at: float | None = None
    _killed: int = 0
    """Processes in a row that a signal has ended before they joined."""
    _lineage: Lineage | None = None
    _since: int | None = None
    """Number of the first start of this pod; None: there was none yet."""
    _arrived: list[socket.socket] = field(default_factory=list)
    _leader: Lines | None = None
    _heard: float = 0.0
    _beaten: float = 0.0
    _leads: Leader | None = None
    """What this supervisor is for the others, beside process 0."""
    _report: bytes = b""
    """The last termination report of a process of this pod."""

    def run(self) -> int:
        """Supervise until the pod ends."""
        self._receive_signals()
        if self.place.process == 0:
            self._leads = Leader(self.place, self._selector)
        self._begin()
        self._connect()
        while self._code is None:
            for key, _ in self._selector.select(BEAT_SECONDS / 4 if self._kill_at is None else 0.1):
                key.data()
            self._tick(time.monotonic())
        self._end()
        return self._code

    # Processes.

    def _start(self) -> _Child:
        ours, its = socket.socketpair()
        with its:
            process = subprocess.Popen(
                [*self.program, *self.arguments],
                env={**os.environ, DESCRIPTOR: str(its.fileno())},
                pass_fds=[its.fileno()],
                start_new_session=True,
            )
        child = _Child(process, Lines(ours))
        self._selector.register(ours, selectors.EVENT_READ, partial(self._hear_child, child))
        return child

    def _begin(self) -> None:
        """Make the spare process, or a new one, the trainer of this pod."""
        self._child, self._spare = self._spare or self._start(), None
        self._child.lines.send(begin=self._lineage is not None)
        self._kill_at, self._stopped = None, False
        self._tell(waits=True)

    def _hear_child(self, child: _Child) -> None:
        documents = child.lines.receive()
        if documents is None:
            child.lines.leave(self._selector)
            return
        for document in documents:
            if document.get("spare") and self._spare is None and not self._asked_to_end:
                self._spare = self._start()
            if (step := document.get("committed")) is not None:
                self._tell(committed=step)

    def _reap(self) -> None:
        """Take note of every process that has ended: as the first process of a container, also of orphans."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            for child in (self._child, self._spare):
                if child is not None and child.process.pid == pid:
                    child.process.returncode = code
                    if child.lines.socket is not None:
                        self._hear_child(child)  # what it said before it ended
                        child.lines.leave(self._selector)
                    _kill_session(pid)
                    if child is self._child:
                        self._child_ended(child, code)
                    else:
                        self._spare = None

    def _child_ended(self, child: _Child, code: int) -> None:
        end: dict[str, Any] = {"exitCode": code if code >= 0 else 128 - code, "stopped": self._stopped}
        if (report := self._take_report()) is not None:
            end["report"] = report
        if code == 0:
            self._report = self._report if report is not None else b""
            self._tell(done=True)
            self._done_at = time.monotonic()
        elif code < 0 and not child.joined and not self._asked_to_end and self._killed < MOST_KILLED:
            self._killed += 1  # nobody waits for it yet, so nobody needs to know
            self._begin()
        elif self._asked_to_end or not stays(code) or not child.joined:
            self._tell(ended={**end, "podLost": True})
            self._code = int(self._last_code(code, report or {}))
        else:
            self._tell(ended=end)
            self._begin()

    def _last_code(self, code: int, report: Mapping[str, Any]) -> int:
        """The exit code of the container after that of its trainer, where a signal is a failure."""
        if self._lineage is not None and report.get("othersMissing"):
            return ExitCode.NOT_REJOINED
        if self._asked_to_end and (report.get("peerLost") is not None or code == -signal.SIGTERM):
            # This pod was to end anyway, and another one was first, or the process had not begun to handle the signal.
            return ExitCode.PREEMPTED
        if code == ExitCode.NOT_REJOINED and not self.place.forgives:
            return ExitCode.FAILURE  # the JobSet counts it: all pods may be killed again and again
        return code if code > 0 else ExitCode.FAILURE

    def _take_report(self) -> dict[str, Any] | None:
        """The termination report that the process has written. The file is empty afterwards, for that of the next."""
        try:
            data = self.place.termination_log.read_bytes()
            self._report = data or self._report
            found = json.loads(data)
            self.place.termination_log.write_bytes(b"")
        except (OSError, ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None

    # Signals and time.

    def _receive_signals(self) -> None:
        reading, writing = socket.socketpair()
        writing.setblocking(False)
        signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        self._wakes = (reading, writing)  # both stay open
        for kind in (*_ENDING, *_FORWARDED, signal.SIGCHLD):
            signal.signal(kind, lambda number, frame: None)
        self._selector.register(reading, selectors.EVENT_READ, partial(self._woken, reading))

    def _woken(self, reading: socket.socket) -> None:
        """A signal has come, or the leader has accepted the connection."""
        for number in reading.recv(64):
            if number in _ENDING:
                self._asked_to_end, self._kill_at = True, None
            if number in (*_ENDING, *_FORWARDED) and self._child is not None:
                _send(self._child, number)
        self._reap()
        while self._arrived:
            self._greet(self._arrived.pop())

    def _tick(self, now: float) -> None:
        if self._kill_at is not None and now >= self._kill_at and self._child is not None:
            self._kill_at = None
            _send(self._child, signal.SIGKILL)
        if self._done_at is not None and (
            self._leads is None or self._leads.meeting.all_done or now - self._done_at > _LAST_SECONDS
        ):
            self._code = 0
        if now - self._beaten >= BEAT_SECONDS:
            self._beaten = now
            self._tell(beat=True)
            if self._leads is not None:
                self._leads.beat()
        if self._leader is not None and now - self._heard > SILENCE_SECONDS:
            self._lose_leader()
        if self._leads is not None:
            self._leads.lose_silent(now)

    def _stop(self) -> None:
        """The process is of no use any more: another one was lost."""
        if self._child is not None and self._child.joined and not self._asked_to_end and self._kill_at is None:
            self._kill_at, self._stopped = time.monotonic() + STOP_SECONDS, True

    # The connection to the leader.

    def _connect(self) -> None:
        """Connect in a thread: a name may resolve slowly."""

        def connect() -> None:
            if self._heard:
                time.sleep(_RETRY_SECONDS)  # the leader may turn away a pod that was replaced
            while self._code is None:
                try:
                    found = socket.create_connection((self.place.leader, self.place.port), timeout=_CONNECT_SECONDS)
                except OSError:
                    time.sleep(_RETRY_SECONDS)
                    continue
                self._arrived.append(found)
                self._wakes[1].send(b"\0")
                return

        threading.Thread(target=connect, name="halcyon-connect", daemon=True).start()

    def _greet(self, connection: socket.socket) -> None:
        self._leader, self._heard = Lines(connection), time.monotonic()
        self._selector.register(connection, selectors.EVENT_READ, self._hear_leader)
        place, known = self.place, None if self._lineage is None else self._lineage.document()
        self._tell(hello=place.process, token=place.token, group=place.group, known=known, since=self._since)
        if self._child is not None and not self._child.joined:
            self._tell(waits=True)

    def _tell(self, **document: Any) -> None:
        if self._leader is not None:
            self._leader.send(**document)

    def _hear_leader(self) -> None:
        if self._leader is None:
            return
        documents = self._leader.receive()
        if documents is None:
            self._lose_leader()
            return
        self._heard = time.monotonic()
        for document in documents:
            if "stop" in document:
                self._stop()
            if "quit" in document:
                self._code = int(document["quit"])
            if "go" in document and self._child is not None and not self._child.joined:
                self._lineage = Lineage.read(document["go"])
                self._since = self._lineage.number if self._since is None else self._since
                self._child.joined, self._killed = True, 0
                self._child.lines.send(go=document["go"])

    def _lose_leader(self) -> None:
        if self._leader is not None:
            self._leader.leave(self._selector)
            self._leader = None
        self._stop()
        self._connect()

    # Ends.

    def _end(self) -> None:
        """End the processes that are left, and leave the last report for the kubelet."""
        for child in (self._child, self._spare):
            if child is not None and child.process.returncode is None:
                _kill_session(child.process.pid)
                child.process.wait()
        with suppress(OSError):
            if not self.place.termination_log.read_bytes():
                self.place.termination_log.write_bytes(self._last_report())

    def _last_report(self) -> bytes:
        """The last report, with as many of the ends before it as there is room for: process 0 may have ended before the
        operator asked for them.
        """
        known = self._lineage.ends if self._lineage is not None else ()
        ends = [{name: value for name, value in end.items() if name != "report"} for end in known]
        for kept in (ends[first:] for first in range(len(ends))):
            with suppress(ValueError, TypeError, RecursionError):
                found = json.dumps({**json.loads(self._report), "endsInPlace": kept}, separators=(",", ":")).encode()
                if len(found) <= MAX_REPORT:
                    return found
        return self._report


def _send(child: _Child, number: int) -> None:
    """Send a signal. Not by ``Popen``, which would take note of an end that `_reap` waits for."""
    if child.process.returncode is None:
        os.kill(child.process.pid, number)


def _kill_session(pid: int) -> None:
    """End the process and what it has started."""
    with suppress(OSError):
        os.killpg(pid, signal.SIGKILL)


def main() -> None:
    """The command ``halcyon-agent RUN.YAML``."""
    try:
        place = Place.of(os.environ)
    except (KeyError, ValueError) as error:
        sys.stderr.write(
            f"halcyon-agent runs in a pod that the operator made; the variable {error} is missing or wrong\n"
        )
        sys.exit(ExitCode.BAD_CONFIGURATION)
    code = Supervisor(place, sys.argv[1:]).run()
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
