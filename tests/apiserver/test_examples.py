"""The API server accepts every document of the examples and pages, and all objects of the chart, in namespaces with the
restricted profile."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from halcyon_demo.documents import EXAMPLES, REPOSITORY, load
from halcyon_devcluster.control_plane import ControlPlane
from tests.apiserver.api import Api
from tests.apiserver.conftest import Helm
from tests.examples.documents import training_runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def strict(api: Api, api_server: ControlPlane) -> Iterator[Api]:
    """The API server; warnings, such as those of the pod profile, are errors."""
    assert api is not None, "the API server must serve the kinds"
    strict = Api(api_server.kubeconfig.read_text(), warnings_are_errors=True)
    yield strict
    strict.close()


@pytest.mark.parametrize("where", list(training_runs()))
def test_every_run_that_is_shown_is_accepted(strict: Api, shared_namespace: str, where: str) -> None:
    strict.create(in_namespace(training_runs()[where], shared_namespace), shared_namespace, dry_run=True)


def in_namespace(document: dict[str, Any], namespace: str) -> dict[str, Any]:
    """The document in another namespace."""
    moved = copy.deepcopy(document)
    moved["metadata"]["namespace"] = namespace
    return moved


def test_the_object_store_is_accepted(api_server: ControlPlane, shared_namespace: str) -> None:
    manifests = [
        found
        for path in (EXAMPLES / "object-store").glob("*.yaml")
        for found in load(path)
        if found["kind"] != "Namespace"
    ]
    moved = [
        in_namespace(manifest, shared_namespace)
        for manifest in manifests
        if manifest["metadata"]["namespace"] == "training"
    ]
    arguments = ["create", "--dry-run=server", "--filename=-", "--warnings-as-errors", "--validate=strict"]
    output = api_server.kubectl(*arguments, stdin=yaml.safe_dump_all(moved))
    assert output.count("created (server dry run)") == len(moved) > 0


def test_the_server_of_the_example_is_accepted(api_server: ControlPlane, shared_namespace: str) -> None:
    moved = [in_namespace(manifest, shared_namespace) for manifest in load(EXAMPLES / "chat" / "serve.yaml")]
    arguments = ["create", "--dry-run=server", "--filename=-", "--warnings-as-errors", "--validate=strict"]
    output = api_server.kubectl(*arguments, stdin=yaml.safe_dump_all(moved))
    assert output.count("created (server dry run)") == len(moved) == 3


def test_the_chain_of_the_example_is_accepted(api: Api, api_server: ControlPlane, shared_namespace: str) -> None:
    assert api is not None, "the API server must serve the kinds"
    built = list(yaml.safe_load_all(api_server.kubectl("kustomize", EXAMPLES / "chat")))
    kinds = [found["kind"] for found in built]
    assert kinds.count("TrainingRun") >= 4
    assert {"Job", "Deployment", "Service", "HorizontalPodAutoscaler"} <= set(kinds)
    arguments = ["create", "--dry-run=server", "--filename=-", "--warnings-as-errors", "--validate=strict"]
    output = api_server.kubectl(
        *arguments, stdin=yaml.safe_dump_all([in_namespace(one, shared_namespace) for one in built])
    )
    assert output.count("created (server dry run)") == len(built)


@pytest.mark.parametrize("everywhere", [True, False], ids=["cluster", "namespace"])
def test_the_chart_is_accepted(helm: Helm, shared_namespace: str, everywhere: bool) -> None:
    values = {
        "image": {"repository": "operator"},
        "trainerImage": {"repository": "trainer"},
        "clusterWide": everywhere,
        "objectStore": {"s3": {"credentialsSecret": "store", "endpoints": ["http://store.team.svc:7070"]}},
        "crds": {"enabled": False},
    }
    chart = REPOSITORY / "charts" / "halcyon"
    command = [
        "upgrade",
        "--install",
        "accepted",
        chart,
        "--namespace",
        shared_namespace,
        "--dry-run=server",
        "--values",
        "-",
    ]
    assert "NOTES" in helm(*command, stdin=yaml.safe_dump(values))
