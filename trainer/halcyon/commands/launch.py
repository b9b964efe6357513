"""``halcyon launch``: a run on several hosts, each reached with ssh.

A host whose supervisor or connection is lost is started again and takes its old place, while the others wait in theirs.
The hosts learn the secret of the run from standard input, which no list of processes shows. It stays open: a host whose
connection ends saves and ends.
"""

from __future__ import annotations

import secrets
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Annotated, cast

import typer

from halcyon.commands.errors import report_errors
from halcyon.commands.options import Defaults, Document, Overrides, resolved
from halcyon.commands.terminal import say
from halcyon.host.errors import BadConfiguration
from halcyon_api.ends import ExitCode
from halcyon_api.environment import SAVE_TOKEN

_SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3")
_CONNECTION_LOST = 255
"""The exit code of ssh itself."""
_SIGNALLED = 128
"""A shell adds to it the number of the signal that ended its program."""
_PAUSE_SECONDS, _POLL_SECONDS = 2.0, 0.1
_SOON_SECONDS, _MOST_TRIES = 60.0, 5
"""A host that is lost so soon after its start is tried this often again."""
_PORT = 9000
_REMOTE = (
    "read -r {token} && export {token} && exec 3<&0 && {{ {train} </dev/null & }} && train=$! && "
    "{{ {{ cat <&3 >/dev/null; kill -TERM $train; }} 2>/dev/null & }} && {{ wait $train; code=$?; kill $! 2>/dev/null; "
    "exit $code; }}"
)


def remote_command(arguments: Sequence[str]) -> str:
    """What the shell of a host runs: the program, with the secret from the first line of standard input. The end of
    standard input is a notice. Pure.
    """
    return _REMOTE.format(token=SAVE_TOKEN, train=shlex.join(arguments))


@dataclass
class Hosts:
    """The processes of a run, one a host.

    Args:
        names: The names of the hosts.
        commands: For each, the local program that starts its process.
        token: The secret of the run.
        say: Called with a sentence for the user.
        clock: Monotonic seconds.
    """

    names: Sequence[str]
    commands: Sequence[Sequence[str]]
    token: str
    say: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    _running: dict[int, tuple[subprocess.Popen[str], float]] = field(
        default_factory=dict[int, "tuple[subprocess.Popen[str], float]"]
    )
    """By index of the host; with the time of its start."""
    _due: dict[int, float] = field(default_factory=dict[int, float])
    """When a lost host is started again."""
    _tries: Counter[int] = field(default_factory=Counter[int])
    """Losses in a row, each soon after the start."""
    _code: int = ExitCode.DONE
    """That of the first host that did not end well."""
    _noticed: bool = False

    def run(self) -> int:
        """Run until all hosts have ended; the exit code of the run."""
        noticed: list[int] = []
        handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        for number in handlers:
            signal.signal(number, lambda number, _: noticed.append(number))
        self._due = dict.fromkeys(range(len(self.commands)), self.clock())
        while self._running or self._due:
            for host in [host for host, at in self._due.items() if self.clock() >= at]:
                del self._due[host]
                self._start(host)
            time.sleep(_POLL_SECONDS)
            for host, (process, began) in list(self._running.items()):
                if (code := process.poll()) is not None:
                    del self._running[host]
                    _close(process)
                    self._ended(host, code, self.clock() - began)
            if noticed and not self._noticed:
                self._stop()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        return self._code

    def _stop(self) -> None:
        """Let all hosts save and end: close their standard input."""
        self._noticed = True
        self._due.clear()
        for process, _ in self._running.values():
            _close(process)

    def _start(self, host: int) -> None:
        process = subprocess.Popen(self.commands[host], stdin=subprocess.PIPE, text=True, start_new_session=True)
        self._running[host] = process, self.clock()
        with suppress(OSError):  # it has ended already
            stream = cast("IO[str]", process.stdin)
            stream.write(f"{self.token}\n")
            stream.flush()

    def _ended(self, host: int, code: int, seconds: float) -> None:
        lost = code < 0 or code == _CONNECTION_LOST or code > _SIGNALLED
        self._tries[host] = self._tries[host] + 1 if seconds < _SOON_SECONDS else 1
        if lost and not self._noticed and self._tries[host] <= _MOST_TRIES:
            self.say(f"host {self.names[host]} is lost (exit code {code}), and is started again")
            self._due[host] = self.clock() + _PAUSE_SECONDS
        elif code != ExitCode.DONE:
            self._code = self._code or code
            self._stop()


def _close(process: subprocess.Popen[str]) -> None:
    """Close the standard input of a process, which may have ended."""
    with suppress(OSError):
        cast("IO[str]", process.stdin).close()


def launch(
    document: Document,
    hosts: Annotated[
        str, typer.Option(metavar="A,B,C", help="The hosts, by the names that ssh knows. A is process 0's.")
    ],
    options: Annotated[
        list[str] | None, typer.Argument(metavar="[-- OPTIONS OF SSH]", help="Such as -p 2222 -i KEY.")
    ] = None,
    coordinator: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="Where the hosts meet: this port of the first host, and the next. Default: 9000."
        ),
    ] = None,
    defaults: Defaults = None,
    overrides: Overrides = None,
) -> None:
    """Train a run on several hosts, each reached with ssh. The document has the same path on all of them."""
    from halcyon.run.on_hosts import topology_of

    with report_errors(document):
        names = [name for name in hosts.split(",") if name]
        topology_of(resolved(document, defaults, overrides), len(names))
        if any(name.startswith("-") for name in names):
            raise BadConfiguration(f"--hosts: {hosts} has a name that begins with a dash")
        own = Path(sys.executable).with_name("halcyon")
        where = coordinator or f"{names[0].rpartition('@')[2]}:{_PORT}"
        further = [word for one in defaults or () for word in ("--defaults", str(one.resolve()))]
        further += [word for one in overrides or () for word in ("--set", one)]

        def command(process: int) -> tuple[str, ...]:
            place = ("--coordinator", where, "--processes", str(len(names)), "--process", str(process))
            program = (str(own) if own.exists() else "halcyon", "train", str(document.resolve()), "--json")
            return (*_SSH, *(options or ()), names[process], remote_command((*program, *further, *place)))

        started = Hosts(names, [command(process) for process in range(len(names))], secrets.token_urlsafe(), say)
        raise typer.Exit(started.run())
