"""Documents kept in git: applied with client-side or server-side apply, and compared with the cluster."""

from __future__ import annotations

import subprocess
from typing import Any

import yaml

from halcyon_devcluster import Kubectl
from tests.suite.limits import limit

WAYS = {"client": ("--server-side=false",), "server": ("--server-side",)}


class Git:
    """Documents kept in git, and one way to apply them."""

    def __init__(self, kubectl: Kubectl, namespace: str, documents: list[dict[str, Any]], way: str) -> None:
        self._kubectl = kubectl
        self._where = ("--namespace", namespace, "--filename=-", *WAYS[way])
        self._text = yaml.safe_dump_all(documents)

    def apply(self) -> None:
        self._kubectl("apply", *self._where, stdin=self._text)

    def diff(self) -> str:
        """The output of `kubectl diff`. kubectl reads and does its dry run in two requests, so a status written between
        them is no drift: up to 5 tries."""
        command = [*self._kubectl.command, "diff", *self._where]
        for _ in range(5):
            done = subprocess.run(
                command, input=self._text, capture_output=True, text=True, timeout=limit(120), check=False
            )
            assert done.returncode in (0, 1), done.stderr
            if done.returncode == 0:
                return ""
        return done.stdout
