"""A real server for blobs of Azure: Microsoft's emulator Azurite, from the package registry of Node.js."""

from __future__ import annotations

import base64
import hmac
import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path

import httpx

from halcyon_devcluster.debian import Requirement, ensure_packages
from halcyon_devcluster.paths import cache_folder
from halcyon_devcluster.progress import QUIET
from halcyon_devcluster.waiting import until
from tests.ports import free_port
from tests.suite.limits import limit

VERSION = "3.37.0"
_NODE = (Requirement("nodejs", "node"), Requirement("npm", "npm"))


@dataclass(frozen=True)
class Azurite:
    """The running server, with one account."""

    endpoint: str
    account: str
    key: str

    def make(self, container: str) -> None:
        """Make a container, by a request that is signed with the account's key (Authorize with Shared Key)."""
        when, version = formatdate(usegmt=True), "2021-12-02"
        path = f"/{self.account}/{container}"
        signed = f"PUT{chr(10) * 12}x-ms-date:{when}\nx-ms-version:{version}\n/{self.account}{path}\nrestype:container"
        digest = hmac.new(base64.b64decode(self.key), signed.encode(), "sha256").digest()
        headers = {
            "x-ms-date": when,
            "x-ms-version": version,
            "Authorization": f"SharedKey {self.account}:{base64.b64encode(digest).decode()}",
        }
        address = f"{self.endpoint}{path}?restype=container"
        answer = httpx.put(address, headers=headers, timeout=limit(30))
        assert answer.status_code == 201, answer.text

    @property
    def environment(self) -> dict[str, str]:
        """The credentials."""
        return {"AZURE_STORAGE_ACCOUNT_KEY": self.key}


def program() -> Path:
    """The program, installed into the cache if it is not there."""
    folder = cache_folder(os.environ, Path.home()) / f"azurite-{VERSION}"
    found = folder / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
    ensure_packages(_NODE, folder.with_suffix(".log"), QUIET)
    if not found.exists():
        fresh = folder.with_name(f"{folder.name}.{secrets.token_hex(4)}")
        fresh.mkdir(parents=True)
        subprocess.run(
            ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", f"azurite@{VERSION}"],
            cwd=fresh,
            check=True,
            capture_output=True,
            timeout=limit(600),
        )
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
    return found


@contextmanager
def azurite(folder: Path) -> Iterator[Azurite]:
    """The server on a free port, with its blobs in a folder."""
    port, account, key = free_port(), "halcyon", base64.b64encode(secrets.token_bytes(32)).decode()
    command = ["node", program(), "--silent", "--skipApiVersionCheck", "--blobPort", str(port), "--location", folder]
    environment = {"PATH": os.environ["PATH"], "AZURITE_ACCOUNTS": f"{account}:{key}"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            until(
                lambda: process.poll() is not None or _listens(port),
                timeout_seconds=60,
                failure=lambda: "azurite does not listen",
            )
            assert process.poll() is None
            yield Azurite(f"http://127.0.0.1:{port}", account, key)
        finally:
            process.terminate()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=limit(1)).close()
    except OSError:
        return False
    return True
