"""No run starts with a JobSet version that would drop the rules for its stops."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from halcyon_operator.kube.client import ApiError, KubernetesApi
from halcyon_operator.kube.cluster import FIELD, OPENAPI, Cluster, MissingApi, create_refusal, knows_the_rules
from halcyon_operator.run.metrics import Metrics


def schema(*fields: str) -> dict[str, Any]:
    """The part of an API server's OpenAPI document about JobSet that matters here."""
    rule = {"type": "object", "properties": {field: {} for field in fields}}
    policy = {"properties": {"rules": {"type": "array", "items": rule}}}
    jobset = {"properties": {"spec": {"properties": {"failurePolicy": policy}}}}
    return {"components": {"schemas": {"io.k8s.ObjectMeta": {}, "io.x-k8s.jobset.v1alpha2.JobSet": jobset}}}


OLD, NEW = schema("name", "action", "onJobFailureReasons"), schema("name", "action", FIELD)


class Server:
    """An API server that serves the kinds, with this OpenAPI document or this error code."""

    def __init__(self, openapi: dict[str, Any] | int) -> None:
        self.openapi = openapi

    async def request(self, method: str, path: str, resource: str, **_: Any) -> dict[str, Any]:
        if path != OPENAPI:
            return {"resources": [{"name": "trainingruns"}, {"name": "jobsets"}]}
        if isinstance(self.openapi, int):
            raise ApiError(self.openapi, "", "")
        return self.openapi


def check(openapi: dict[str, Any] | int) -> None:
    asyncio.run(Cluster(Server(openapi)).check())  # type: ignore[arg-type]


def test_an_old_jobset_version_is_reported_at_the_start() -> None:
    with pytest.raises(
        MissingApi, match=rf"does not support failurePolicy\.rules\.{FIELD}.*install JobSet v0\.10 or later"
    ):
        check(OLD)
    check(NEW)


@pytest.mark.parametrize("openapi", [403, 404, {}, {"components": {"schemas": {"x": {"properties": 3}}}}])
def test_the_operator_continues_if_the_api_server_does_not_show_the_schema(
    openapi: Any, caplog: pytest.LogCaptureFixture
) -> None:
    check(openapi)
    assert FIELD in caplog.text


def test_an_api_server_that_does_not_answer_is_asked_again() -> None:
    with pytest.raises(ApiError):
        check(503)


@pytest.mark.parametrize(
    "document", [None, [], {"components": {"schemas": []}}, {"components": {"schemas": {"a": None}}}]
)
def test_any_json_document_is_tolerated_as_a_schema(document: object) -> None:
    assert knows_the_rules(document) is None


def test_an_old_jobset_version_installed_later_is_reported_too() -> None:
    refusal = create_refusal("JobSet", f'strict decoding error: unknown field "spec.failurePolicy.rules[0].{FIELD}"')
    assert "install JobSet v0.10 or later" in refusal
    assert create_refusal("ConfigMap", "quota") == "ConfigMap was refused: quota"


class Connection:
    """Records the addresses of requests."""

    class configuration:  # noqa: N801 - the name of the client's attribute
        host = "https://server"

    def __init__(self, answer: bytes = b"{}") -> None:
        self.asked: list[tuple[str, str]] = []
        self.answer = answer

    async def update_params_for_auth(self, *_: Any) -> None: ...

    async def call_api(self, method: str, url: str, *_: Any) -> Any:
        self.asked.append((method, url))
        answer = self.answer

        class Response:
            status = 200

            async def read(self) -> bytes:
                return answer

        return Response()


def test_every_object_that_is_written_is_validated_strictly() -> None:
    connection = Connection()
    api = KubernetesApi(connection, Metrics().api_requests)  # type: ignore[arg-type]

    async def story() -> None:
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
            await api.request(method, "/path", "things", query={"a": "b"}, body={})

    asyncio.run(story())
    assert {method for method, url in connection.asked if "fieldValidation=Strict" in url} == {"POST", "PUT", "PATCH"}
    assert all("a=b" in url for _, url in connection.asked)


@pytest.mark.parametrize("answer", [b"<html>Sign in</html>", b"[]", b"", b"{}", b'{"message": "try again"}'])
def test_an_answer_that_is_no_list_does_not_say_that_a_run_has_no_objects(answer: bytes) -> None:
    cluster = Cluster(KubernetesApi(Connection(answer), Metrics().api_requests))  # type: ignore[arg-type]
    for ask in (cluster.jobsets, lambda *run: cluster.pods(*run, str)):
        with pytest.raises(ApiError, match="Unreadable"):
            asyncio.run(ask("default", "demo"))
    if not answer.startswith(b"{"):
        with pytest.raises(ApiError, match="HTTP status 200 and no JSON object"):
            asyncio.run(cluster.run("default", "demo"))
