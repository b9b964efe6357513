"""The objects of Argo CD and Flux in the guides are valid by their own CRDs, and fit the example repository and the
chart.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from halcyon_api.generate.argocd import CONFIG_MAP
from halcyon_api.generate.json_schema import plain_schema
from halcyon_devcluster.programs import ARGO, FLUX_HELM, FLUX_KUSTOMIZE, FLUX_SOURCE, Group
from tests.cluster.documented import CHART
from tests.examples.documents import REPOSITORY, objects_of
from tests.gitops.readers import binaries
from tests.gitops.test_repository import EXAMPLE

pytestmark = pytest.mark.slow  # the first use downloads sources


SHOWN, INSTALL = objects_of("docs/guides/gitops.md"), objects_of("docs/guides/install.md")


DEFINITIONS: dict[str, tuple[Group, str]] = {
    "GitRepository": (FLUX_SOURCE, "source.toolkit.fluxcd.io_gitrepositories.yaml"),
    "Kustomization": (FLUX_KUSTOMIZE, "kustomize.toolkit.fluxcd.io_kustomizations.yaml"),
    "OCIRepository": (FLUX_SOURCE, "source.toolkit.fluxcd.io_ocirepositories.yaml"),
    "HelmRelease": (FLUX_HELM, "helm.toolkit.fluxcd.io_helmreleases.yaml"),
    "Application": (ARGO, "application-crd.yaml"),
}
"""The program that defines a kind, and the file of its CRD."""


def definition(kind: str) -> Path:
    """The CRD of a kind, from the sources of its program. The program itself is not built."""
    group, file = DEFINITIONS[kind]
    assert group.keep
    return binaries().source(group) / group.keep / file


@pytest.mark.parametrize("document", [*SHOWN.values(), *INSTALL.values()], ids=lambda document: document["kind"])
def test_the_objects_of_the_guides_are_valid_by_their_crds(document: dict[str, Any]) -> None:
    kind = document["kind"]
    crd = yaml.safe_load(definition(kind).read_text())["spec"]
    group, version = document["apiVersion"].split("/")
    assert (crd["group"], crd["names"]["kind"]) == (group, kind)
    (schema,) = [found["schema"]["openAPIV3Schema"] for found in crd["versions"] if found["name"] == version]
    assert not list(Draft7Validator(plain_schema(schema["properties"]["spec"])).iter_errors(document["spec"]))


def test_the_guide_fits_the_repository() -> None:
    environment = EXAMPLE / SHOWN["Kustomization"]["spec"]["path"]
    assert (environment / "kustomization.yaml").is_file()
    application = SHOWN["Application"]["spec"]
    assert (EXAMPLE / application["source"]["path"]).resolve() == environment.resolve()
    assert (
        application["destination"]["namespace"]
        == yaml.safe_load((environment / "namespace.yaml").read_text())["metadata"]["name"]
    )
    assert SHOWN["Kustomization"]["spec"]["sourceRef"]["name"] == SHOWN["GitRepository"]["metadata"]["name"]


def test_the_installations_are_of_the_chart_that_helm_installs() -> None:
    address, _, version = CHART
    source = INSTALL["Application"]["spec"]["source"]
    assert (f"oci://{source['repoURL']}/{source['chart']}", source["targetRevision"]) == (address, version)
    repository = INSTALL["OCIRepository"]["spec"]
    assert (repository["url"], repository["ref"]["tag"]) == (address, version)
    assert INSTALL["HelmRelease"]["spec"]["chartRef"]["name"] == INSTALL["OCIRepository"]["metadata"]["name"]
    assert INSTALL["HelmRelease"]["spec"]["values"] == source["helm"]["valuesObject"]


def test_the_guide_names_every_action_and_the_file_that_defines_them() -> None:
    guide = (REPOSITORY / "docs" / "guides" / "gitops.md").read_text()
    assert str(CONFIG_MAP.relative_to(REPOSITORY)) in guide
    actions = yaml.safe_load(
        yaml.safe_load(CONFIG_MAP.read_text())["data"]["resource.customizations.actions.halcyon.dev_TrainingRun"]
    )
    assert all(f"| {action['name']} | " in guide for action in actions["definitions"])
