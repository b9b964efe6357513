"""Runs kept in git, with an API server and an operator: no change by either of them is shown as a difference.

No run trains here. tests/cluster/test_gitops.py tests the differences, and the tools that read runs, over a run's whole
life.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from halcyon_api.generate.argocd import CONFIG_MAP
from halcyon_api.generate.crd import UNSEEN
from halcyon_api.local_roots import with_root_addresses
from halcyon_demo.documents import EXAMPLES, load
from halcyon_demo.install import Namespaces, moved
from halcyon_devcluster.control_plane import ControlPlane
from halcyon_devcluster.waiting import until
from tests.api.documents import document
from tests.apiserver.api import Api
from tests.cluster.git import WAYS, Git
from tests.cluster.operators import OperatorProcess, stores
from tests.gitops import readers
from tests.gitops.recording import record

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def examples(namespace: str) -> list[dict[str, Any]]:
    """All runs of examples/, in one namespace, with addresses in place of the folders of one machine."""
    files = sorted(EXAMPLES.glob("*.yaml"))
    documents = [document for file in files for document in load(file)] + load(
        EXAMPLES / "gitops" / "base" / "run.yaml"
    )
    found = moved([with_root_addresses(document) for document in documents], Namespaces(runs=namespace))
    for run in found:
        run["metadata"]["namespace"] = namespace
    return found


@pytest.fixture(scope="module")
def namespaces(
    api_server: ControlPlane, make_namespace: Callable[[], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """A namespace for each way of applying. One operator serves them all."""
    found = {way: make_namespace() for way in WAYS}
    first, *_ = served = list(found.values())
    allowed = stores(*(Namespaces(runs=place).store_endpoint for place in served))
    folder = tmp_path_factory.mktemp("operator")
    operator = OperatorProcess.start(
        "operator", api_server.kubeconfig, first, folder, namespaces=served, objectStore=allowed
    )
    operator.await_ready()
    yield found
    operator.stop()


@pytest.mark.parametrize("way", WAYS)
def test_no_example_drifts(api: Api, api_server: ControlPlane, namespaces: dict[str, str], way: str) -> None:
    namespace = namespaces[way]
    documents = examples(namespace)
    git = Git(api_server.kubectl, namespace, documents, way)

    def unseen() -> list[dict[str, Any]]:
        found = [api.get(document, namespace) for document in documents]
        return [run for run in found if run["status"]["observedGeneration"] != run["metadata"]["generation"]]

    git.apply()
    assert git.diff() == ""
    until(lambda: not unseen(), timeout_seconds=60, failure=lambda: str(unseen()))
    assert all("objectStore.s3.endpoints" not in str(api.get(document, namespace)["status"]) for document in documents)
    assert git.diff() == "", "the operator's status must not be a difference"


def test_a_run_that_no_operator_has_seen_does_not_drift(api: Api, api_server: ControlPlane, namespace: str) -> None:
    git = Git(api_server.kubectl, namespace, [document()], "server")
    git.apply()
    run = api.get(document(), namespace)
    assert run["status"] == {"observedGeneration": UNSEEN}
    assert git.diff() == ""
    record(run)


@pytest.mark.variant
def test_a_run_that_no_operator_has_seen_is_in_progress(api: Api, namespace: str) -> None:
    api.create(document(), namespace)
    run = api.get(document(), namespace)
    with readers.kstatus() as kstatus, readers.argo(CONFIG_MAP) as argo:
        assert kstatus.ask(run)["status"] == "InProgress"
        assert argo.health(run)["status"] == "Progressing"
