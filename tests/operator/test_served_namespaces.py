"""When a namespace is deleted or created again, the operator only restarts with the new set of namespaces."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from halcyon_operator.kube.client import ApiError
from halcyon_operator.kube.cluster import Cluster
from halcyon_operator.run.served_namespaces import CHECK_SECONDS, other_namespaces, served_namespaces
from tests.suite.limits import limit


class Namespaces:
    """Gives these answers in turn, one for each pause; the last answer stays."""

    def __init__(self, answers: Iterable[set[str] | None]) -> None:
        self._answers = list(answers)
        self.slept: list[float] = []

    async def serves(self, namespace: str) -> bool:
        if self._answers[0] is None:
            raise ApiError(0, "Unreachable", "no answer")
        return namespace in self._answers[0]

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if len(self._answers) > 1:
            self._answers.pop(0)


def test_a_namespace_that_cannot_be_served_is_left_out_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Namespaces([{"a", "c"}])
    assert asyncio.run(served_namespaces(cluster, ("a", "b", "c"), cluster.sleep)) == ("a", "c")
    assert "no right to the TrainingRuns of b" in caplog.text
    assert cluster.slept == []


def test_the_operator_waits_until_a_namespace_can_be_served() -> None:
    cluster = Namespaces([set(), set(), {"b"}])
    assert asyncio.run(served_namespaces(cluster, ("a", "b"), cluster.sleep)) == ("b",)
    assert cluster.slept == [CHECK_SECONDS] * 2


def test_serving_the_whole_cluster_needs_no_check_of_namespaces() -> None:
    assert asyncio.run(served_namespaces(Namespaces([None]), ())) == ()


@pytest.mark.parametrize(
    "later", [{"a"}, {"a", "b", "c"}, set()], ids=["one is deleted", "one is created again", "all are deleted"]
)
def test_a_changed_set_of_namespaces_ends_the_wait_and_an_outage_does_not(later: set[str]) -> None:
    cluster = Namespaces([{"a", "b"}, {"a", "b"}, None, {"a", "b"}, later])
    asyncio.run(asyncio.wait_for(other_namespaces(cluster, ("a", "b", "c"), ("a", "b"), cluster.sleep), limit(10)))
    assert len(cluster.slept) == 4


@pytest.mark.parametrize(("code", "serves"), [(403, False), (404, False), (200, True)])
def test_a_refusal_says_that_a_namespace_cannot_be_served(code: int, serves: bool) -> None:
    class Api:
        async def request(self, *_: object, **__: object) -> dict[str, object]:
            if code >= 400:
                raise ApiError(code, "Forbidden", "no")
            return {}

    assert asyncio.run(Cluster(Api()).serves("team")) is serves  # type: ignore[arg-type]


def test_a_failing_api_server_decides_nothing_about_a_namespace() -> None:
    class Api:
        async def request(self, *_: object, **__: object) -> dict[str, object]:
            raise ApiError(500, "InternalError", "no")

    with pytest.raises(ApiError):
        asyncio.run(Cluster(Api()).serves("team"))  # type: ignore[arg-type]
