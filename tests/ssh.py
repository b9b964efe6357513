"""A real OpenSSH server on this machine, which any address 127.x.y.z reaches."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from halcyon_devcluster.debian import Requirement, ensure_packages
from halcyon_devcluster.progress import ConsoleProgress
from halcyon_devcluster.waiting import until
from tests.ports import free_port


@contextmanager
def ssh_server() -> Iterator[list[str]]:
    """The options with which ssh logs into the server as the present user. The missing package is installed."""
    folder = Path(tempfile.mkdtemp(prefix="halcyon-ssh-"))
    ensure_packages((Requirement("openssh-server", "sshd"),), folder / "apt.log", ConsoleProgress(Console()))
    key, port = folder / "key", free_port()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    Path("/run/sshd").mkdir(exist_ok=True)  # sshd gives up its rights in it
    settings = {
        "Port": port,
        "HostKey": key,
        "AuthorizedKeysFile": f"{key}.pub",
        "PidFile": "none",
        "StrictModes": "no",
        "UsePAM": "no",
        "PermitRootLogin": "prohibit-password",
        "PasswordAuthentication": "no",
    }
    if "PYTHONPATH" in os.environ:  # of a checkout that is not installed
        settings["SetEnv"] = f"PYTHONPATH={os.environ['PYTHONPATH']}"
    (folder / "config").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    program = shutil.which("sshd", path="/usr/sbin:/usr/bin") or "sshd"
    log = folder / "log"
    server = subprocess.Popen([program, "-D", "-f", str(folder / "config"), "-E", str(log)])

    def listens() -> bool:
        with socket.socket() as found:
            return found.connect_ex(("127.0.0.1", port)) == 0

    try:
        until(listens, timeout_seconds=30, failure=log.read_text)
        yield [
            *("-p", str(port), "-i", str(key), "-o", "StrictHostKeyChecking=no"),
            *("-o", f"UserKnownHostsFile={folder / 'known'}", "-o", "IdentitiesOnly=yes", "-o", "LogLevel=ERROR"),
        ]
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder)
