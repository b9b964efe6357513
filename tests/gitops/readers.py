"""The programs that read TrainingRuns as others do: Argo CD's code, kstatus, kubeconform, Kustomize. Built once, and real."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from halcyon_api import json_schema
from halcyon_devcluster.binaries import Binaries
from halcyon_devcluster.paths import cache_folder
from halcyon_devcluster.programs import ARGO, KSTATUS, KUBECONFORM, KUBECTL, Group
from halcyon_devcluster.progress import QUIET
from tests.suite.limits import limit

BUILT = [pytest.mark.slow, pytest.mark.timeout(1800)]
"""For tests whose programs take minutes to build on a machine that never built them."""
SCHEMAS = json_schema.FOLDER.parent / "{{.Group}}" / "{{.ResourceKind}}_{{.ResourceAPIVersion}}.json"
"""Where kubeconform finds the schema of a kind."""


def binaries() -> Binaries:
    """The cache of what is built."""
    return Binaries(cache_folder(os.environ, Path.home()), QUIET)


def program(group: Group, name: str) -> Path:
    """A program at its pinned version, built on first use."""
    return binaries().path(group, name)


class Reader:
    """A program that answers each line with a line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"it ended with status {self._process.wait()}"
        return json.loads(line)


@contextmanager
def reader(*command: str | Path) -> Iterator[Reader]:
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Reader(process)
        assert process.stdin is not None
        process.stdin.close()


class Argo:
    """Argo CD with a ConfigMap."""

    def __init__(self, lines: Reader) -> None:
        self._lines = lines

    def look(self, run: Mapping[str, Any], action: str = "") -> dict[str, Any]:
        """What it says of a run: health, actions, and what the action makes of it."""
        return self._lines.ask({"object": run, "action": action})

    def health(self, run: Mapping[str, Any]) -> dict[str, Any]:
        found = self.look(run)
        assert "error" not in found, found
        return found["health"]

    def offers(self, run: Mapping[str, Any]) -> set[str]:
        return {action["name"] for action in self.look(run).get("actions", ())}

    def do(self, action: str, run: Mapping[str, Any]) -> dict[str, Any]:
        """The run as an action leaves it."""
        found = self.look(run, action)
        assert "error" not in found, found
        (result,) = found["result"]
        return result


@contextmanager
def argo(config_map: Path) -> Iterator[Argo]:
    with reader(program(ARGO, "argo"), config_map) as lines:
        yield Argo(lines)


@contextmanager
def kstatus() -> Iterator[Reader]:
    with reader(program(KSTATUS, "kstatus")) as lines:
        yield lines


def kubeconform(*paths: str | Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Validate documents by the published schema. A kind without one is passed over: Kubernetes' own are not on this machine."""
    command = [program(KUBECONFORM, "kubeconform"), "-strict", "-ignore-missing-schemas", "-schema-location", str(SCHEMAS), *paths]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=limit(60), check=False)


def kustomize(folder: Path) -> str:
    """Build a Kustomization, with the Kustomize inside kubectl."""
    done = subprocess.run(
        [program(KUBECTL, "kubectl"), "kustomize", folder], capture_output=True, text=True, timeout=limit(60), check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
