"""The operator's own client with a real API server: no write loses a field silently, and a change of a Job reaches its
spec.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from copy import deepcopy
from typing import Any

import pytest
from kubernetes.aio import config as kubernetes_config
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration

from halcyon_devcluster.control_plane import ControlPlane
from halcyon_operator.kube.client import ApiError, KubernetesApi, path_of
from halcyon_operator.kube.cluster import FIELD, Cluster
from halcyon_operator.model.decision import JobSetPlan
from halcyon_operator.objects.jobset import JOBSET_API_VERSION, build_jobset
from halcyon_operator.observe.runs import parse_run_view
from halcyon_operator.run.metrics import Metrics
from tests.apiserver.api import Api
from tests.operator.builders import SETTINGS, run


@pytest.fixture
def ask(api: Api, api_server: ControlPlane) -> Callable[[Callable[[KubernetesApi], Awaitable[Any]]], Any]:
    def ask(work: Callable[[KubernetesApi], Awaitable[Any]]) -> Any:
        async def story() -> Any:
            configuration = Configuration()
            loader: Any = kubernetes_config
            await loader.load_kube_config(config_file=str(api_server.kubeconfig), client_configuration=configuration)
            client = KubernetesApi(ApiClient(configuration), Metrics().api_requests)
            try:
                return await work(client)
            finally:
                await client.close()

        return asyncio.run(story())

    return ask


def jobset(namespace: str) -> dict[str, Any]:
    view = parse_run_view(run())
    assert view.spec is not None
    made = build_jobset(JobSetPlan(view, view.spec, SETTINGS, 1, 0, 3))
    made["metadata"] |= {"namespace": namespace, "ownerReferences": []}
    return made


def test_the_operator_starts_on_this_jobset(ask: Any, caplog: pytest.LogCaptureFixture) -> None:
    ask(lambda client: Cluster(client).check())
    assert FIELD not in caplog.text, "the API server must describe the field"


def test_a_jobset_with_an_unknown_field_is_rejected(ask: Any, shared_namespace: str) -> None:
    good = jobset(shared_namespace)
    bad = deepcopy(good)
    bad["spec"]["failurePolicy"]["rules"][0]["onJobFailureMessages"] = [".*"]
    path = path_of(JOBSET_API_VERSION, "jobsets", shared_namespace)
    with pytest.raises(ApiError, match="unknown field"):
        ask(lambda client: client.request("POST", path, "jobsets", body=bad))
    ask(lambda client: client.request("POST", path, "jobsets", query={"dryRun": "All"}, body=good))


def test_a_status_is_written_where_the_definition_lacks_one_of_its_fields(
    ask: Any, api: Api, shared_namespace: str
) -> None:
    document = run(name="strict")
    document["metadata"] = {"name": "strict", "namespace": shared_namespace}
    document["spec"]["checkpoint"]["root"] = "s3://bucket/strict"
    made = api.create(document, shared_namespace)
    view = parse_run_view(made)
    written = ask(
        lambda client: Cluster(client).write_status(view, {**view.raw_status, "phase": "Pending", "nothing": 1})
    )
    assert written["status"]["phase"] == "Pending"
    assert "nothing" not in written["status"]
