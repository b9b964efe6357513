"""A real SLURM of four nodes on this machine, without accounts: munge, a controller and four daemons that run jobs.

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
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from halcyon_devcluster.debian import Requirement, ensure_packages
from halcyon_devcluster.progress import ConsoleProgress
from halcyon_devcluster.waiting import until
from tests.ports import free_port

HOST = socket.gethostname().partition(".")[0]
NODES = (HOST, f"{HOST}2", f"{HOST}3", f"{HOST}4")
"""A job gets the first ones, in this order. Process 0 runs on the first node of a job, whose name the others look up."""
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

    def state(self, job: str) -> str:
        """The state of a job, such as RUNNING."""
        return self("squeue", "--noheader", f"--jobs={job}", "--states=all", "--format=%T").strip()


@contextmanager
def slurm() -> Iterator[Slurm]:
    """A SLURM, which ends with its jobs after the block. The missing packages are installed."""
    folder = Path(tempfile.mkdtemp(prefix="halcyon-slurm-"))
    folder.chmod(0o755)  # munge accepts no other
    ensure_packages(_PACKAGES, folder / "apt.log", ConsoleProgress(Console()))
    key = folder / "munge.key"
    ports = [free_port() for _ in NODES]
    nodes = "".join(
        f"NodeName={node} NodeHostname={HOST} NodeAddr=127.0.0.1 Port={port} CPUs=2\n"
        for node, port in zip(NODES, ports, strict=True)
    )
    text = _CONFIGURATION.format(host=HOST, folder=folder, port=free_port()) + nodes
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


def _idle(running: Slurm) -> int:
    with suppress(subprocess.CalledProcessError):
        return running("sinfo", "--noheader", "--Node", "--format=%T").split().count("idle")
    return 0


def _log(folder: Path) -> str:
    return (folder / "daemons.log").read_text()[-2000:]
