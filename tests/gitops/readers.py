"""The programs of others that read TrainingRuns: Argo CD's code, kstatus, kubeconform, Kustomize.

They are the real ones, built once.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from halcyon_api.generate.__main__ import main as generate
from halcyon_devcluster.binaries import Binaries
from halcyon_devcluster.paths import cache_folder
from halcyon_devcluster.programs import ARGO, KSTATUS, KUBECONFORM, KUBERNETES, Group
from halcyon_devcluster.progress import QUIET
from tests.suite.builds import ALL_BUILT
from tests.suite.limits import limit

BUILT = [pytest.mark.slow, pytest.mark.timeout(1800)]
"""For tests whose programs take minutes to build on a machine that has never built them."""


@cache
def schemas() -> Path:
    """The folder of the published schemas, generated once a process."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    assert generate(["--schemas", str(folder)]) == 0
    return folder


def binaries() -> Binaries:
    """The cache of built programs."""
    return Binaries(cache_folder(os.environ, Path.home()), QUIET)


def program(group: Group, name: str) -> Path:
    """A program at its pinned version, built on first use; but no test waits for a build while the suite runs."""
    if os.environ.get(ALL_BUILT) and binaries().missing([group]):
        pytest.fail(
            f"{name} is not built in this tier: mark the test as a variant, or add the program to tests/suite/builds.py"
        )
    return binaries().path(group, name)


class Reader:
    """A program that answers each line of input with one line."""

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
    """Argo CD's code with a ConfigMap of scripts."""

    def __init__(self, lines: Reader) -> None:
        self._lines = lines

    def look(self, run: Mapping[str, Any], action: str = "") -> dict[str, Any]:
        """Argo CD's answer for a run: health, actions, and the result of an action."""
        return self._lines.ask({"object": run, "action": action})

    def health(self, run: Mapping[str, Any]) -> dict[str, Any]:
        found = self.look(run)
        assert "error" not in found, found
        return found["health"]

    def offers(self, run: Mapping[str, Any]) -> set[str]:
        return {action["name"] for action in self.look(run).get("actions", ())}

    def do(self, action: str, run: Mapping[str, Any]) -> dict[str, Any]:
        """The run after an action."""
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
    """Validate documents with the published schemas.

    Kinds without one are skipped, such as those of Kubernetes itself.
    """
    command = [
        program(KUBECONFORM, "kubeconform"),
        "-strict",
        "-ignore-missing-schemas",
        "-schema-location",
        str(schemas() / "{{.Group}}" / "{{.ResourceKind}}_{{.ResourceAPIVersion}}.json"),
        *paths,
    ]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=limit(60), check=False)


def kustomize(folder: Path) -> str:
    """Build a Kustomization, with the Kustomize in kubectl."""
    done = subprocess.run(
        [program(KUBERNETES, "kubectl"), "kustomize", folder],
        capture_output=True,
        text=True,
        timeout=limit(60),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
