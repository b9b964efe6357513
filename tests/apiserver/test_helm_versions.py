"""Helm 3 and Helm 4 with the chart, as docs/guides/install.md describes them, on a real API server.

No pods run, so nothing waits for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from halcyon_api.generate.crd import definitions
from halcyon_demo.documents import REPOSITORY
from halcyon_devcluster.binaries import Binaries
from halcyon_devcluster.commands import run
from halcyon_devcluster.control_plane import ControlPlane
from halcyon_devcluster.errors import DevclusterError
from halcyon_devcluster.programs import HELM, HELM3
from tests.apiserver.api import Api
from tests.gitops.readers import program

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

CHART = REPOSITORY / "charts" / "halcyon"
VALUES = yaml.safe_dump({"image": {"repository": "operator"}, "trainerImage": {"repository": "trainer"}})
CONFLICT = "Apply failed with [0-9]+ conflict"


class Release:
    """A release in a namespace, by one version of Helm."""

    def __init__(self, helm: Path, server: ControlPlane, home: Path, namespace: str) -> None:
        self._command = [helm, "--kubeconfig", server.kubeconfig, "--namespace", namespace]
        self._environ = {f"HELM_{what}_HOME": str(home) for what in ("CACHE", "CONFIG", "DATA")}
        self._kubectl, self.namespace = server.kubectl, namespace

    def __call__(self, what: str, *more: str) -> str:
        chart = [CHART, "--values", "-"] if what != "uninstall" else []
        return run([*self._command, what, "halcyon", *chart, *more], stdin=VALUES, environ=self._environ)

    @property
    def replicas(self) -> int:
        return self._kubectl.json("get", "deployment", "halcyon", "--namespace", self.namespace)["spec"]["replicas"]


@pytest.fixture(params=["helm4", pytest.param("helm3", marks=pytest.mark.variant)])
def version(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def release(
    version: str,
    api: Api,
    api_server: ControlPlane,
    binaries: Binaries,
    tmp_path: Path,
    make_namespace: Callable[[str], str],
) -> Iterator[Release]:
    helm = program(HELM3, "helm") if version == "helm3" else binaries.path(HELM, "helm")
    made = Release(helm, api_server, tmp_path, make_namespace("helm"))
    yield made
    made("uninstall", "--ignore-not-found")
    # The definitions are those of the folder's tests: nobody owns them afterwards.
    owner = [f"meta.helm.sh/release-{what}-" for what in ("name", "namespace")]
    for definition in definitions():
        api_server.kubectl("annotate", "crd", definition["metadata"]["name"], *owner)


@pytest.mark.parametrize("other", [False, True], ids=["same version", "another version"])
def test_definitions_that_were_applied_by_hand_get_another_owner(
    release: Release, version: str, other: bool, api_server: ControlPlane
) -> None:
    with pytest.raises(DevclusterError, match="exists and cannot be imported into the current release"):
        release("install")
    applied = definitions()
    if other:
        for definition in applied:
            definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["description"] = "Of another version."
    api_server.kubectl("apply", "--server-side", "--force-conflicts", "--filename=-", stdin=yaml.safe_dump_all(applied))
    if version == "helm4" and other:
        with pytest.raises(DevclusterError, match=CONFLICT):
            release("install", "--take-ownership")
        release("uninstall")
        release("install", "--take-ownership", "--force-conflicts")
    else:
        release("install", "--take-ownership")
    assert release.replicas == 1


def test_an_upgrade_after_a_deployment_was_scaled(release: Release, version: str, api_server: ControlPlane) -> None:
    own = ["--set", "crds.enabled=false"]
    release("install", *own)
    api_server.kubectl("scale", "deployment", "halcyon", "--replicas=2", "--namespace", release.namespace)
    if version == "helm4":
        with pytest.raises(DevclusterError, match=f"{CONFLICT}.*spec.replicas"):
            release("upgrade", *own, "--set", "log.level=debug")
        own.append("--force-conflicts")
    release("upgrade", *own, "--set", "log.level=debug")
    assert release.replicas == 1
