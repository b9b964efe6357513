"""An API server without a node for every test in this folder: started once on each worker, in a few seconds, with the
kinds of Halcyon and JobSet.

It takes 400 MB, so it ends with the last test of the folder on its worker; for this reason the folder is a package.
Nothing here needs root. `halcyon_devcluster.control_plane` lists what does not happen without controllers.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from halcyon_api.generate.crd import definitions
from halcyon_devcluster.binaries import Binaries
from halcyon_devcluster.commands import run
from halcyon_devcluster.control_plane import ControlPlane
from halcyon_devcluster.paths import cache_folder
from halcyon_devcluster.programs import HELM, JOBSET
from halcyon_devcluster.progress import ConsoleProgress
from halcyon_devcluster.waiting import until
from tests.apiserver.api import Api
from tests.ports import free_port

Helm = Callable[..., str]

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


@pytest.fixture(scope="session")
def cache() -> Path:
    return cache_folder(os.environ, Path.home())


@pytest.fixture(scope="session")
def binaries(cache: Path) -> Binaries:
    return Binaries(cache, ConsoleProgress(Console(stderr=True)))


@pytest.fixture(scope="package")
def api_server(binaries: Binaries) -> Iterator[ControlPlane]:
    with ControlPlane(binaries, free_port()) as server:
        yield server


@pytest.fixture(scope="package")
def api(api_server: ControlPlane, binaries: Binaries) -> Iterator[Api]:
    """The API server, with the kinds of Halcyon and JobSet.

    It validates JobSets by their schema only; JobSet's webhooks need a node.
    """
    api = Api(api_server.kubeconfig.read_text())
    jobset = yaml.safe_load(
        (binaries.folder(JOBSET) / "charts" / "jobset" / "crds" / "jobset.x-k8s.io_jobsets.yaml").read_text()
    )
    found = [*definitions(), jobset]
    for definition in found:
        api.create(definition)
    versions = {
        (one["spec"]["group"], one["spec"]["versions"][0]["name"], one["spec"]["names"]["plural"]) for one in found
    }
    # Served, and described for `kubectl explain` and server-side apply.
    wanted = [
        path
        for group, version, plural in versions
        for path in (f"/apis/{group}/{version}/{plural}", f"/openapi/v3/apis/{group}/{version}")
    ]
    until(
        lambda: all(map(api.answers, wanted)),
        timeout_seconds=30,
        failure=lambda: f"the API server does not serve {wanted}",
    )
    yield api
    api.close()


@pytest.fixture(scope="package")
def helm(api_server: ControlPlane, binaries: Binaries, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Runs Helm against the API server. Its own files go into a folder of the session."""
    home = str(tmp_path_factory.mktemp("helm"))
    environ = {f"HELM_{what}_HOME": home for what in ("CACHE", "CONFIG", "DATA")}

    def helm(*arguments: str | Path, stdin: str | None = None) -> str:
        command = [binaries.path(HELM, "helm"), *arguments, "--kubeconfig", api_server.kubeconfig]
        return run(command, stdin=stdin, environ=environ)

    return helm


@pytest.fixture(scope="package")
def make_namespace(api: Api) -> Callable[[], str]:
    """Creates a namespace that enforces the restricted pod profile, with the service account of its pods. It exists as
    long as the server."""

    def make_namespace(name: str = "test") -> str:
        metadata: dict[str, Any] = {"name": f"{name}-{secrets.token_hex(4)}", "labels": RESTRICTED}
        api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        api.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}, metadata["name"])
        return metadata["name"]

    return make_namespace


@pytest.fixture
def namespace(make_namespace: Callable[[], str]) -> str:
    """A namespace for one test."""
    return make_namespace()


@pytest.fixture(scope="module")
def shared_namespace(make_namespace: Callable[[], str]) -> str:
    """A namespace for tests that store nothing in it."""
    return make_namespace()
