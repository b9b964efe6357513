"""The API server accepts every document shown to a reader, and all that the chart makes, in namespaces under the restricted profile."""

import copy
from typing import Any

import pytest
import yaml

from halcyon_api.crd import custom_resource_definition
from halcyon_demo.documents import EXAMPLES, REPOSITORY, load
from halcyon_demo.install import helm
from tests.cluster.conftest import DevCluster
from tests.examples.documents import training_runs

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module", autouse=True)
def definition(devcluster: DevCluster) -> None:
    definition = custom_resource_definition()
    devcluster.kubectl.apply([definition])
    devcluster.kubectl("wait", "--for=condition=Established", f"crd/{definition['metadata']['name']}", "--timeout=60s")


def dry_run(devcluster: DevCluster, namespace: str, documents: list[dict[str, Any]]) -> str:
    """Have the API server judge objects as if they were in a namespace; warnings, such as the pod profile's, are errors."""
    moved = copy.deepcopy(documents)
    for document in moved:
        document["metadata"]["namespace"] = namespace
    arguments = ["create", "--dry-run=server", "--filename=-", "--warnings-as-errors", "--validate=strict"]
    return devcluster.kubectl(*arguments, stdin=yaml.safe_dump_all(moved))


@pytest.mark.parametrize("where", list(training_runs()))
def test_every_run_that_is_shown_is_accepted(devcluster: DevCluster, namespace: str, where: str) -> None:
    assert "created (server dry run)" in dry_run(devcluster, namespace, [training_runs()[where]])


def test_the_object_store_is_accepted(devcluster: DevCluster, namespace: str) -> None:
    manifests = [found for path in (EXAMPLES / "object-store").glob("*.yaml") for found in load(path) if found["kind"] != "Namespace"]
    dry_run(devcluster, namespace, [manifest for manifest in manifests if manifest["metadata"]["namespace"] == "training"])


@pytest.mark.parametrize("everywhere", [True, False], ids=["cluster", "namespace"])
def test_the_chart_is_accepted(devcluster: DevCluster, namespace: str, everywhere: bool) -> None:
    values = {
        "image": {"repository": "operator"},
        "trainerImage": {"repository": "trainer"},
        "clusterWide": everywhere,
        "objectStore": {"s3": {"credentialsSecret": "store"}},
        "crds": {"enabled": False},
    }
    chart = REPOSITORY / "charts" / "halcyon"
    command = ["upgrade", "--install", "accepted", chart, "--namespace", namespace, "--dry-run=server", "--values", "-"]
    assert "NOTES" in helm(devcluster.cluster, *command, stdin=yaml.safe_dump(values))
