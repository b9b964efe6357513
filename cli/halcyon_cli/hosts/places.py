"""Where processes can be started: hosts that ssh reaches, or the nodes of a job of SLURM."""

import shlex
import signal
import subprocess
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from halcyon.host.launchers import port_of
from halcyon_api.host_lines import BEGAN

_PORT = 9000
_CONNECTION_LOST = 255
"""The exit code of ssh itself."""
_RUNNING = "RUNNING"
_ANSWER_SECONDS = 2.0
"""SLURM itself waits for 5 seconds until it can carry an order out."""


@dataclass(frozen=True)
class Ssh:
    """Hosts that ssh reaches.

    Attributes:
        names: The names that ssh knows.
        options: Further options of ssh.
        where: The coordinator that the user gave.
    """

    names: Sequence[str]
    options: Sequence[str] = ()
    where: str | None = None
    has_queue: bool = False

    def hosts(self) -> list[str]:
        """The hosts, in the order in which they are used."""
        return list(self.names)

    def command(self, host: str, words: Sequence[str]) -> list[str]:
        """The local program that runs these words on a host, and says `BEGAN` there first.

        Not with `exec`: of a program that a signal ends, only a shell gives the number of the signal.
        """
        fixed = ("-o", "BatchMode=yes", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3")
        return ["ssh", *fixed, *self.options, host, f"echo '{BEGAN}'; {shlex.join(words)}; exit $?"]

    def lost(self, host: str, code: int, *, began: bool) -> str:
        """Why a host is lost whose local program ended with this code; empty: it is not."""
        said = "the connection was lost" if began else "ssh did not reach it"
        return f"{said} (exit code {code})" if code < 0 or code == _CONNECTION_LOST else ""

    def coordinator(self, host: str, start: int) -> str:
        """Where the processes of a start meet, if process 0 is on this host."""
        return self.where or f"{host.rpartition('@')[2]}:{_PORT}"

    def goes_on(self) -> bool:
        """Whether new processes may be started at all."""
        return True

    def put_back(self, avoided: Collection[str]) -> bool:
        """Give the hosts back and wait for others in the queue. False: there is no queue."""
        return False


@dataclass
class Slurm:
    """The nodes of the job in which this process runs.

    Args:
        job: Its number.
    """

    job: str
    has_queue: bool = True
    _nodes: list[str] = field(default_factory=list[str])

    def hosts(self) -> list[str]:
        """The nodes that the job still has: SLURM takes a node away that is down."""
        found = self._ask("squeue", "--noheader", f"--jobs={self.job}", "--format=%N").strip()
        self._nodes = self._ask("scontrol", "show", "hostnames", found).split() if found else self._nodes
        return self._nodes

    def command(self, host: str, words: Sequence[str]) -> list[str]:
        """A step of its own on each node, so that the loss of one ends no other."""
        step = ("--nodes=1", "--ntasks=1", "--ntasks-per-node=1", f"--nodelist={host}", "--overlap", "--immediate=60")
        return ["srun", *step, "sh", "-c", f"echo '{BEGAN}'; exec {shlex.join(words)}"]

    def lost(self, host: str, code: int, *, began: bool) -> str:
        """By the nodes that the job still has: srun ends with 0 when a node fails."""
        if host not in self.hosts():
            return "SLURM has taken the node from the job"
        return "" if began or code == 0 else f"srun could not start a process (exit code {code})"

    def coordinator(self, host: str, start: int) -> str:
        """Other ports for each start: those of the last one may not be free yet."""
        return f"{host}:{port_of(int(self.job), start)}"

    def goes_on(self) -> bool:
        """Not after `scancel`, or when another job takes the nodes."""
        return self._ask("squeue", "--noheader", f"--jobs={self.job}", "--format=%T").strip() == _RUNNING

    def put_back(self, avoided: Collection[str]) -> bool:
        """SLURM takes the nodes to leave out only while the job waits, and without accounting it answers only after
        this process has ended. So the order is given, and the answer is awaited for a short time.
        """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it comes at once, and the commands inherit this
        back = subprocess.run(["scontrol", "requeue", self.job], check=False).returncode == 0
        if back and avoided:
            order = ("scontrol", "update", f"jobid={self.job}", f"excnodelist={','.join(avoided)}")
            with suppress(subprocess.TimeoutExpired):
                subprocess.run(order, timeout=_ANSWER_SECONDS, check=False)
        return back

    def _ask(self, *command: str) -> str:
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout


Places = Ssh | Slurm
"""The hosts of a run, and how a process is started on one."""
