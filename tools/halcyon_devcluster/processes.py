"""Detached processes that run longer than this program, identified by process id, start time and boot.

After a crash or a reboot, another process may have the same id. So a process gets a signal only if the start time that
the kernel shows (field 22 of /proc/PID/stat, in clock ticks since boot) and the boot id are the recorded ones.
"""

import json
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from halcyon_devcluster.errors import DevclusterError
from halcyon_devcluster.waiting import holds_within

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# The shell joins the control group before it becomes the program, so that every child is in the group.
_JOIN_AND_EXEC = 'echo $$ > "$0" && exec "$@"'


@dataclass(frozen=True)
class Record:
    """A unique identification of one process.

    Attributes:
        name: The component, such as `etcd`.
        pid: Process id.
        started_ticks: Start time in clock ticks since boot.
        boot: The kernel's id of this boot.
        command: The command line, for people who read the record.
    """

    name: str
    pid: int
    started_ticks: int
    boot: str
    command: list[str]


def parse_stat(stat: str) -> tuple[str, int]:
    """Return (state letter, start time in ticks) from the text of /proc/PID/stat. Pure.

    The second field is the program's name in parentheses and may contain blanks and parentheses, so fields are counted
    from the last closing parenthesis.
    """
    fields = stat[stat.rindex(")") + 2 :].split()
    return fields[0], int(fields[19])


def _stat(pid: int) -> tuple[str, int] | None:
    try:
        return parse_stat(Path(f"/proc/{pid}/stat").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return None


def alive(record: Record) -> bool:
    """Whether the recorded process (not another one with its id) is running.

    A zombie child is reaped and counts as ended.
    """
    if record.boot != _BOOT_ID.read_text().strip():
        return False
    stat = _stat(record.pid)
    if stat is None or stat[1] != record.started_ticks:
        return False
    if stat[0] != "Z":
        return True
    if _threads(record.pid) > 1:
        return True  # its main thread has ended, but others still hold its files and ports
    with suppress(ChildProcessError):
        os.waitpid(record.pid, os.WNOHANG)
    return False


def _threads(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/task"))  # noqa: PTH208 - names alone
    except (FileNotFoundError, ProcessLookupError):
        return 0


class Processes:
    """The recorded processes of one cluster: a folder with one JSON document per process."""

    def __init__(self, records: Path, logs: Path) -> None:
        self._records = records
        self._logs = logs

    def start(
        self, name: str, argv: Sequence[str | Path], members_file: Path, environ: Mapping[str, str] | None = None
    ) -> Record:
        """Start `argv` detached from this program, in the control group, with output appended to logs/NAME.log.

        Args:
            name: The component; replaces an earlier record with that name.
            argv: Absolute program path and arguments.
            members_file: The control group's `cgroup.procs`.
            environ: The complete environment of the process; None: the environment of this process.
        """
        self._records.mkdir(parents=True, exist_ok=True)
        self._logs.mkdir(parents=True, exist_ok=True)
        words = [str(word) for word in argv]
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        pid = os.posix_spawn(
            "/bin/sh",
            ["sh", "-c", _JOIN_AND_EXEC, str(members_file), *words],
            dict(os.environ if environ is None else environ),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(self._logs / f"{name}.log"), flags, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=[signal.SIGPIPE, signal.SIGINT],
        )
        stat = _stat(pid)
        record = Record(name, pid, stat[1] if stat else -1, _BOOT_ID.read_text().strip(), words)
        temporary = self._records / f".{name}.tmp"
        temporary.write_text(json.dumps(asdict(record)))
        temporary.rename(self._records / f"{name}.json")
        return record

    def find(self, name: str) -> Record | None:
        """Return the record of `name`, or None if there is none or it is not valid."""
        try:
            return Record(**json.loads((self._records / f"{name}.json").read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def running(self, name: str) -> Record | None:
        """Return the record of `name` if its process runs, else None."""
        record = self.find(name)
        return record if record and alive(record) else None

    def stop(self, name: str, *, grace_seconds: float = 10, force: bool = False) -> None:
        """Stop `name` and wait until it has ended: SIGTERM, then SIGKILL after the grace period; with `force`, SIGKILL
        at once.
        """
        record = self.find(name)
        if record is None:
            return
        if not force and not self._signal_and_wait(record, signal.SIGTERM, grace_seconds):
            force = True
        if force:
            self._signal_and_wait(record, signal.SIGKILL, 30)
        (self._records / f"{name}.json").unlink(missing_ok=True)

    def send(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a running process.

        Raises:
            DevclusterError: the process is not running.
        """
        record = self.running(name)
        if record is None:
            raise DevclusterError(f"{name} is not running.")
        os.kill(record.pid, number)

    @staticmethod
    def _signal_and_wait(record: Record, number: signal.Signals, seconds: float) -> bool:
        if not alive(record):
            return True
        with suppress(ProcessLookupError):
            os.kill(record.pid, number)
        return holds_within(lambda: not alive(record), seconds, interval_seconds=0.02)
