"""The chart's limits at the real API server: refused in one sentence that names field and mend, in each namespace its own."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from halcyon_api.crd import definitions
from halcyon_devcluster import DevclusterError
from halcyon_devcluster.binaries import Binaries
from halcyon_devcluster.commands import run as run_program
from halcyon_devcluster.programs import HELM
from halcyon_devcluster.waiting import until
from tests.api.documents import document
from tests.cluster.conftest import PROGRESS, DevCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

CHART = Path(__file__).parents[2] / "charts" / "halcyon"
DIGEST = "sha256:" + "0" * 64
LIMITS: dict[str, Any] = {
    "serviceAccounts": ["trainer", "other"],
    "images": ["registry.example/halcyon/"],
    "imageDigests": "required",
    "roots": ["gs://team/", "file:///checkpoints/"],
}
FITTING = {
    "spec__scheduling": {"serviceAccountName": "trainer"},
    "spec__image": f"registry.example/halcyon/trainer@{DIGEST}",
    "spec__checkpoint__root": "gs://team/small",
    "spec__data__cache": {"root": "gs://team/cache"},
    "spec__from": {"run": "x", "root": "gs://team/x"},
}


class Limited:
    """Two namespaces: one with limits of its own, one with the default, which is that no image may be named."""

    def __init__(self, devcluster: DevCluster) -> None:
        self._kubectl = devcluster.kubectl
        self.team, self.others, self.release = (f"{name}-{secrets.token_hex(4)}" for name in ("team", "others", "release"))

    def apply(self, namespace: str, *, dry_run: bool = True, **changes: Any) -> str:
        """What the API server says: empty if it takes the document."""
        return self._said(namespace, document(**changes), dry_run)

    def default(self, namespace: str, spec: dict[str, Any], *, dry_run: bool = True) -> str:
        """The same of defaults."""
        frame = {"apiVersion": "halcyon.dev/v1alpha1", "kind": "TrainingRunDefaults", "metadata": {"name": "default"}}
        return self._said(namespace, frame | {"spec": spec}, dry_run)

    def _said(self, namespace: str, found: dict[str, Any], dry_run: bool) -> str:
        arguments = ["apply", "--namespace", namespace, "--filename=-", *(["--dry-run=server"] if dry_run else [])]
        try:
            self._kubectl(*arguments, stdin=yaml.safe_dump(found))
        except DevclusterError as refused:
            return " ".join(str(refused).split())
        return ""


@pytest.fixture(scope="module")
def limited(devcluster: DevCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Limited]:
    limited = Limited(devcluster)
    namespaces = [limited.team, limited.others, limited.release]
    devcluster.kubectl.apply(
        [*definitions(), *({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in namespaces)]
    )
    values = {
        "image": {"repository": "registry.example/operator"},
        "trainerImage": {"repository": "registry.example/trainer"},
        "watchNamespaces": [limited.team, limited.others],
        "limits": {"enabled": True, "default": {"images": []}, "namespaces": {limited.team: LIMITS}},
    }
    helm = Binaries(devcluster.cluster.paths.cache, PROGRESS).path(HELM, "helm")
    home = {name: str(tmp_path_factory.mktemp("helm")) for name in ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")}
    command = [helm, "template", limited.release, CHART, "--namespace", limited.release, "--show-only", "templates/limits.yaml"]
    objects = list(yaml.safe_load_all(run_program([*command, "--values", "-"], stdin=yaml.safe_dump(values), environ=home)))
    devcluster.kubectl.apply(objects)
    # Until the API server has read the parameters, it refuses everything.
    bare = {"spec__image": "elsewhere.example/trainer:1"}
    until(
        lambda: all(
            "is not allowed in namespace" in said
            for namespace in (limited.team, limited.others)
            for said in (limited.apply(namespace, **bare), limited.default(namespace, {"image": "elsewhere.example/trainer:1"}))
        ),
        timeout_seconds=60,
        failure=lambda: "the policy does not come into force",
    )
    yield limited
    for found in objects:
        if "namespace" not in found["metadata"]:
            devcluster.kubectl("delete", found["kind"].lower(), found["metadata"]["name"])
    devcluster.kubectl("delete", "namespace", *namespaces, "--wait=false")


def test_what_keeps_the_limits_is_taken(limited: Limited, devcluster: DevCluster) -> None:
    assert limited.apply(limited.team, **FITTING) == ""
    assert limited.apply(limited.others, spec__scheduling={"serviceAccountName": "any"}) == "", "what a set leaves out is not limited"
    elsewhere = devcluster.kubectl("get", "validatingadmissionpolicy", "--output=jsonpath={.items[*].status.typeChecking}")
    assert "expressionWarnings" not in elsewhere, "the API server's own check of the expressions"


def test_defaults_are_limited_as_the_runs_are_that_take_them(limited: Limited) -> None:
    fitting = {
        "image": FITTING["spec__image"],
        "scheduling": {"serviceAccountName": "trainer"},
        "checkpoint": {"rootPrefix": "gs://team"},
        "data": {"cache": {"root": "gs://team/cache"}},
    }
    assert limited.default(limited.team, fitting) == ""
    assert limited.default(limited.team, {"recovery": {"maxRestarts": 1}}) == "", "what defaults leave out is not judged"
    for change, sentence in (
        ({"image": "elsewhere.example/trainer:1"}, "spec.image: elsewhere.example/trainer:1 is not allowed in namespace TEAM"),
        ({"image": "registry.example/halcyon/trainer:1"}, "must be given by its digest in namespace TEAM"),
        ({"scheduling": {"serviceAccountName": "admin"}}, "serviceAccountName: admin is not allowed in namespace TEAM"),
        ({"checkpoint": {"rootPrefix": "gs://team-2"}}, "spec.checkpoint.rootPrefix: gs://team-2 is not allowed in namespace TEAM"),
        ({"data": {"cache": {"root": "gs://other/c"}}}, "spec.data.cache.root: gs://other/c is not allowed in namespace TEAM"),
    ):
        assert sentence.replace("TEAM", limited.team) in limited.default(limited.team, fitting | change)
    # A run that names no root goes by defaults that were judged; one that names no account is judged as `default`.
    bare = {key: value for key, value in FITTING.items() if key != "spec__checkpoint__root"} | {"spec__checkpoint": ...}
    assert limited.apply(limited.team, **bare) == ""
    assert "serviceAccountName: default is not allowed" in limited.apply(limited.team, **(bare | {"spec__scheduling": {}}))


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"spec__scheduling": {"serviceAccountName": "admin"}},
        "serviceAccountName: admin is not allowed in namespace TEAM; take trainer or other",
    ),
    ({"spec__scheduling": {}}, "spec.scheduling.serviceAccountName: default is not allowed in namespace TEAM; take trainer or other"),
    (
        {"spec__image": f"registry.example/halcyon-not/trainer@{DIGEST}"},
        "is not allowed in namespace TEAM; leave it out for the trainer that belongs to the operator, or take an image that begins with "
        "registry.example/halcyon/",
    ),
    ({"spec__image": f"registry.example/halcyon/../x@{DIGEST}"}, "is not allowed in namespace TEAM"),
    ({"spec__image": "registry.example/halcyon/trainer:1"}, "must be given by its digest in namespace TEAM, as NAME@sha256:DIGEST"),
    (
        {"spec__checkpoint__root": "gs://team-2/small"},
        "spec.checkpoint.root: gs://team-2/small is not allowed in namespace TEAM; take an address",
    ),
    ({"spec__checkpoint__root": "gs://other/team/small"}, "take an address below gs://team/ or file:///checkpoints/"),
    ({"spec__data__cache": {"root": "gs://other/cache"}}, "spec.data.cache.root: gs://other/cache is not allowed in namespace TEAM"),
    ({"spec__from": {"run": "x", "root": "gs://other/x"}}, "spec.from.root: gs://other/x is not allowed in namespace TEAM"),
]


@pytest.mark.parametrize(("change", "sentence"), REFUSED, ids=lambda value: next(iter(value)) if isinstance(value, dict) else "")
def test_what_breaks_them_is_refused_with_the_field_and_the_mend(limited: Limited, change: dict[str, Any], sentence: str) -> None:
    assert sentence.replace("TEAM", limited.team) in limited.apply(limited.team, **(FITTING | change))


def test_an_empty_list_allows_none(limited: Limited) -> None:
    said = limited.apply(limited.others, spec__image="registry.example/halcyon/trainer:1")
    assert f"is not allowed in namespace {limited.others}; leave it out for the trainer that belongs to the operator" in said
    assert limited.apply(limited.others) == ""


def test_a_run_may_be_suspended_whatever_the_limits_have_become(limited: Limited, devcluster: DevCluster) -> None:
    assert limited.apply(limited.team, dry_run=False, **FITTING) == ""
    name = devcluster.kubectl("get", "configmap", "--namespace", limited.release, "--output=name").split()
    (parameters,) = [found for found in name if found.endswith(limited.team)]
    tighter = {"data": {"roots": "gs://nowhere/", "serviceAccounts": "nobody", "images": ""}}
    devcluster.kubectl("patch", parameters, "--namespace", limited.release, "--type=merge", "--patch", yaml.safe_dump(tighter))
    until(
        lambda: "serviceAccountName: trainer is not allowed" in limited.apply(limited.team, **(FITTING | {"metadata__name": "new"})),
        timeout_seconds=30,
        failure=lambda: limited.apply(limited.team, **(FITTING | {"metadata__name": "new"})),
    )
    assert limited.apply(limited.team, **(FITTING | {"spec__suspend": True})) == ""
    assert "serviceAccountName: other is not allowed" in limited.apply(
        limited.team, **(FITTING | {"spec__scheduling": {"serviceAccountName": "other"}})
    )
