"""Flux for tests: its real controllers as processes on this machine, and a git repository served over HTTP as a git
host does it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from halcyon_devcluster import Kubectl
from halcyon_devcluster.programs import FLUX_SOURCE, Group
from tests.gitops.readers import program
from tests.ports import free_port
from tests.suite.limits import limit
from tests.web import serving

NAMESPACE = "flux-system"
_AUTHOR = ("-c", "user.name=Researcher", "-c", "user.email=researcher@example.com")


def _git_handler(root: Path) -> type[BaseHTTPRequestHandler]:
    """Git's own HTTP service behind Python's HTTP server, as on a git host."""

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            url = urlsplit(self.path)
            length = self.headers.get("Content-Length", "")
            variables = {
                "GIT_PROJECT_ROOT": str(root),
                "GIT_HTTP_EXPORT_ALL": "1",
                "PATH_INFO": url.path,
                "QUERY_STRING": url.query,
                "REQUEST_METHOD": self.command,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "CONTENT_LENGTH": length,
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            }
            body = self.rfile.read(int(length)) if length else b""
            done = subprocess.run(
                ["git", "http-backend"], env={**os.environ, **variables}, input=body, stdout=subprocess.PIPE, check=True
            )
            head, _, content = done.stdout.partition(b"\r\n\r\n")
            fields = dict(line.split(": ", 1) for line in head.decode().splitlines())
            self.send_response(int(fields.pop("Status", "200 OK").split()[0]))
            for name, value in fields.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _serve  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    return Handler


@dataclass(frozen=True)
class Repository:
    """A working tree and the repository that it pushes to.

    Attributes:
        tree: The working tree.
        url: HTTP address of the repository; `push` updates its branch `main`.
    """

    tree: Path
    url: str

    def git(self, *arguments: str) -> str:
        return subprocess.run(
            ["git", *_AUTHOR, *arguments], cwd=self.tree, capture_output=True, text=True, check=True
        ).stdout.strip()

    def push(self, message: str) -> str:
        """Commit all changes, push them, and return the commit."""
        self.git("add", "--all")
        self.git("commit", "--quiet", f"--message={message}")
        self.git("push", "--quiet", "origin", "HEAD:main")
        return self.git("rev-parse", "HEAD")

    def edit(self, path: str, old: str, new: str) -> None:
        file = self.tree / path
        text = file.read_text()
        assert old in text, f"{old!r} is not in {path}"
        file.write_text(text.replace(old, new))


@contextmanager
def served(source: Path, folder: Path) -> Iterator[Repository]:
    """A served repository and a working tree with a copy of a folder, not yet committed."""
    bare, tree = folder / "served" / "experiments.git", folder / "tree"
    shutil.copytree(source, tree)
    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", bare], check=True)
    subprocess.run(["git", "init", "--quiet", "--initial-branch=main", tree], check=True)
    subprocess.run(["git", "remote", "add", "origin", bare], cwd=tree, check=True)
    with serving(_git_handler(bare.parent)) as address:
        yield Repository(tree, f"http://{address}/{bare.name}")


@contextmanager
def flux(kubectl: Kubectl, folder: Path, *groups: Group) -> Iterator[None]:
    """Flux's CRDs in the cluster, and its controllers running. Delete the objects that they made before they end.

    Args:
        kubectl: The cluster.
        folder: For artifacts and the log.
        groups: The controllers beside the one that fetches sources.
    """
    programs = [program(group, next(iter(group.packages))) for group in (FLUX_SOURCE, *groups)]
    definitions = [
        str(path) for found in programs for path in sorted((found.parent / "config/crd/bases").glob("*.yaml"))
    ]
    files = [f"--filename={path}" for path in definitions]
    kubectl("apply", "--server-side", *files)
    kubectl.await_established(*files)
    kubectl.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}])
    artifacts = f"127.0.0.1:{free_port()}"
    common = ("--events-addr=", "--metrics-addr=0", "--health-addr=127.0.0.1:0", "--log-encoding=console")
    storage = (f"--storage-path={folder}", f"--storage-addr={artifacts}", f"--storage-adv-addr={artifacts}")
    environment = {**os.environ, "KUBECONFIG": str(kubectl.kubeconfig), "RUNTIME_NAMESPACE": NAMESPACE}
    log = (folder / "flux.log").open("w")
    source, *others = programs
    started = [
        subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        for command in ([source, *common, *storage], *([other, *common, "--requeue-dependency=2s"] for other in others))
    ]
    try:
        yield
    finally:
        for process in started:
            process.terminate()
            process.wait(timeout=limit(60))
        log.close()
        kubectl("delete", *files, "--ignore-not-found", f"--timeout={limit(60)}s")
        kubectl("delete", "namespace", NAMESPACE, "--wait=false")
