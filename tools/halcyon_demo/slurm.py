"""A real SLURM of four nodes on this machine, without accounts: munge, a controller and four daemons that run jobs; and
a run as one of its jobs.

The nodes differ in their names and ports alone, so the processes of a job share this machine's processors, as the pods
of the development cluster do.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from halcyon_demo.records import LogLine, parse_line
from halcyon_devcluster.debian import Requirement, ensure_packages
from halcyon_devcluster.errors import DevclusterError
from halcyon_devcluster.progress import ConsoleProgress
from halcyon_devcluster.waiting import until

HOST = socket.gethostname().partition(".")[0]
NODES = (HOST, f"{HOST}2", f"{HOST}3", f"{HOST}4")
"""A job gets the first ones, in this order. Process 0 runs on the first node, whose name the others look up."""
_PACKAGES = (
    Requirement("slurmctld", "slurmctld"),
    Requirement("slurmd", "slurmd"),
    Requirement("slurm-client", "srun"),
    Requirement("munge", "munged"),
)
_CONFIGURATION = """
ClusterName=halcyon
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmctldPort={port}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/linear
ReturnToService=0
SchedulerParameters=sched_interval=2
FirstJobId={job}
MpiDefault=none
SwitchType=switch/none
KillWait=10
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@dataclass(frozen=True)
class Slurm:
    """A running SLURM.

    Attributes:
        folder: Its configuration, its state and its logs.
    """

    folder: Path

    @property
    def environ(self) -> Mapping[str, str]:
        """The environment of its commands."""
        return {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def __call__(self, *command: str) -> str:
        """The output of a command of SLURM."""
        return subprocess.run(command, env=self.environ, check=True, capture_output=True, text=True).stdout


@contextmanager
def slurm() -> Iterator[Slurm]:
    """A SLURM, which ends with its jobs after the block. The missing packages are installed.

    Raises:
        DevclusterError: It cannot be had on this machine.
    """
    if os.geteuid() != 0:
        raise DevclusterError("SLURM is started here by root alone: run the same command as root.")
    folder = Path(tempfile.mkdtemp(prefix="halcyon-slurm-"))
    folder.chmod(0o755)  # munge accepts no other
    ensure_packages(_PACKAGES, folder / "apt.log", ConsoleProgress(Console()))
    key = folder / "munge.key"
    own, *ports = _free_ports(1 + len(NODES))
    nodes = "".join(
        f"NodeName={node} NodeHostname={HOST} NodeAddr=127.0.0.1 Port={port} CPUs=2\n"
        for node, port in zip(NODES, ports, strict=True)
    )
    job = 1 + secrets.randbelow(60_000)  # the ports of a run are by its number, and another SLURM may be here
    text = _CONFIGURATION.format(host=HOST, folder=folder, port=own, job=job) + nodes
    (folder / "slurm.conf").write_text(text)
    key.touch(0o600)
    key.write_bytes(secrets.token_bytes(1024))
    running = Slurm(folder)
    daemons: list[subprocess.Popen[bytes]] = []

    def start(program: str, *arguments: str) -> None:
        path = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin") or program
        with (folder / "daemons.log").open("ab") as log:
            daemons.append(
                subprocess.Popen(
                    [path, *arguments], env=running.environ, stdout=log, stderr=log, start_new_session=True
                )
            )

    try:
        files = (("key-file", key), ("socket", folder / "munge.socket"), ("pid-file", folder / "munge.pid"))
        files += (("log-file", folder / "munge.log"), ("seed-file", folder / "munge.seed"))
        start("munged", "--foreground", "--force", *(f"--{name}={path}" for name, path in files))
        until((folder / "munge.socket").exists, timeout_seconds=30, failure=lambda: _log(folder))
        start("slurmctld", "-D")
        for node in NODES:
            start("slurmd", "-D", "-N", node)
        until(lambda: _idle(running) == len(NODES), timeout_seconds=60, failure=lambda: _log(folder))
        yield running
    finally:
        with suppress(subprocess.CalledProcessError):
            running("scancel", "--full", "--signal=KILL", "--state=RUNNING", "--user=root")
            running("scancel", "--user=root")
            until(
                lambda: not running("squeue", "--noheader").strip(),
                timeout_seconds=60,
                failure=lambda: running("squeue"),
            )
        for daemon in reversed(daemons):
            daemon.send_signal(signal.SIGTERM)
            daemon.wait()
        shutil.rmtree(folder)


def _free_ports(number: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _idle(running: Slurm) -> int:
    with suppress(subprocess.CalledProcessError):
        return running("sinfo", "--noheader", "--Node", "--format=%T").split().count("idle")
    return 0


def _log(folder: Path) -> str:
    return (folder / "daemons.log").read_text()[-2000:]


class Job:
    """A submitted run, with its log.

    Args:
        cluster: The SLURM.
        document: The run.
        folder: A new folder, for the document and the log.
        options: Further options of `halcyon slurm`.
    """

    def __init__(self, cluster: Slurm, document: dict[str, Any], folder: Path, *options: str) -> None:
        folder.mkdir()
        path = folder / "run.yaml"
        path.write_text(yaml.safe_dump(document))
        command = (sys.executable, "-m", "halcyon_cli.main", "slurm", str(path), "--submit", *options)
        environ = {**cluster.environ, "JAX_PLATFORMS": "cpu", "HALCYON_COMPILATION_CACHE": str(folder / "xla")}
        said = subprocess.run(
            [*command, "--", f"--chdir={folder}"], env=environ, check=True, capture_output=True, text=True
        ).stdout
        self.cluster, self.number = cluster, said.split()[-1]
        self.log = folder / f"{document['metadata']['name']}-{self.number}.log"

    @property
    def state(self) -> str:
        """Its state, such as RUNNING."""
        return self.cluster("squeue", "--noheader", f"--jobs={self.number}", "--states=all", "--format=%T").strip()

    def lines(self, *events: str) -> list[LogLine]:
        """The events of these names; without a name: all."""
        found = map(parse_line, self.log.read_text().splitlines() if self.log.exists() else ())
        return [one for one in found if one is not None and (not events or one.event in events)]

    def trainer(self, process: int) -> int:
        """The process id of a trainer."""
        starts = reversed(self.lines("start"))
        return next(int(one.fields["processId"]) for one in starts if one.process == process)

    def ends(self, state: str) -> None:
        """Wait until the job has ended, in this state."""
        until(lambda: self.state not in ("PENDING", "RUNNING", "COMPLETING"), timeout_seconds=240, failure=self.tail)
        if self.state != state:
            raise DevclusterError(self.tail())

    def waits_for(self, event: str, number: int) -> None:
        """Wait for this number of events."""
        self.until(lambda: len(self.lines(event)) >= number)

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds.

        Raises:
            DevclusterError: The job ended first, or the time was over.
        """
        until(
            lambda: condition() or self.state not in ("PENDING", "RUNNING", "COMPLETING"),
            timeout_seconds=240,
            failure=self.tail,
            interval_seconds=0.5,
        )
        if not condition():
            raise DevclusterError(self.tail())

    def trains(self, steps: int = 8) -> None:
        """Wait for this many more steps."""
        self.waits_for("step", len(self.lines("step")) + steps)

    def requeued(self) -> float:
        """Wait until the job is in the queue, let all nodes work again, and shorten the wait. Returns the seconds in
        the queue.
        """
        until(lambda: self.state == "PENDING", timeout_seconds=60, failure=self.tail)
        began = time.monotonic()
        for node in self.cluster("sinfo", "--noheader", "--Node", "--states=down", "--format=%N").split():
            self.cluster("scontrol", "update", f"nodename={node}", "state=resume")
        # In place of two minutes. SLURM refuses a start in the same second.
        self.cluster("scontrol", "update", f"jobid={self.number}", "starttime=now+5")
        until(lambda: self.state == "RUNNING", timeout_seconds=60, failure=self.tail)
        return time.monotonic() - began

    def tail(self) -> str:
        """State and last words of the job."""
        return f"{self.state}: {self.log.read_text()[-2000:] if self.log.exists() else 'no log'}"


def down(cluster: Slurm, node: str) -> None:
    """Take a node away from its job, as SLURM does when the node does not answer."""
    cluster("scontrol", "update", f"nodename={node}", "state=down", "reason=fault")


def supervisor_of(trainer: int) -> int:
    """The process id of the supervisor of a trainer: the task that SLURM, or ssh, has started."""
    status = Path(f"/proc/{trainer}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in status if line.startswith("PPid:")))


def node_of(process: int) -> str:
    """The node on which a process runs."""
    variables = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    return next(one.partition(b"=")[2].decode() for one in variables if one.startswith(b"SLURMD_NODENAME="))
