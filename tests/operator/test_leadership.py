"""A process that competes for a Lease, when its API server is slow or down and when the process ends.

On an event loop whose time jumps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from halcyon_operator.kube.client import ApiError, Conflict, KubernetesApi, NotFound, NotLeading
from halcyon_operator.kube.leadership import Leadership
from halcyon_operator.run.metrics import Metrics
from halcyon_operator.run.work_queue import WorkQueue
from tests.operator.builders import at
from tests.operator.test_work_queue import run


class Leases:
    """One Lease, and an API server that may be down or hang."""

    def __init__(self) -> None:
        self.document: dict[str, Any] | None = None
        self.state = "well"
        self.writes = 0

    async def request(
        self, method: str, _: str, resource: str, *, body: Any = None, fenced: bool = True
    ) -> dict[str, Any]:
        assert (resource, fenced) == ("leases", method == "GET"), "writes of the Lease must not need the lease"
        if self.state == "away":
            raise ApiError(0, "Unreachable", "away")
        if self.state == "hangs":
            await asyncio.sleep(10**6)
        if method == "GET":
            if self.document is None:
                raise NotFound(404, "NotFound", "none")
            return self.document
        version = body["metadata"].pop("resourceVersion", None)
        if version != (self.document["metadata"]["resourceVersion"] if self.document else None):
            raise Conflict(409, "Conflict", "changed")
        self.writes += 1
        if self.state == "swallows":
            self.state = "well"
            body["metadata"]["resourceVersion"] = str(self.writes)
            self.document = body
            raise ApiError(0, "Unreachable", "the answer is lost")
        body["metadata"]["resourceVersion"] = str(self.writes)
        self.document = body
        return body

    @property
    def holder(self) -> str:
        return self.document["spec"]["holderIdentity"] if self.document else ""


class Worker:
    """Work that records when it starts and ends."""

    def __init__(self, name: str, leases: Leases) -> None:
        loop = asyncio.get_running_loop()
        self.leadership = Leadership(leases, "halcyon", "operator", name, clock=loop.time, wall=lambda: at(loop.time()))  # type: ignore[arg-type]
        self.began: list[float] = []
        self.ended: list[float] = []
        self.turns_without_lease = 0
        """Turns of the work in which the process did not hold the Lease."""
        self.task = asyncio.create_task(self.leadership.campaign(self.work))

    async def work(self) -> None:
        loop = asyncio.get_running_loop()
        self.began.append(loop.time())
        try:
            while True:
                await asyncio.sleep(0.1)
                self.turns_without_lease += not self.leadership.leads
        finally:
            self.ended.append(loop.time())

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def until(condition: Callable[[], object]) -> float:
    """Wait until a condition holds, and return the time."""
    loop = asyncio.get_running_loop()
    while not condition():
        assert loop.time() < 10_000
        await asyncio.sleep(0.01)
    return loop.time()


def test_a_leader_that_stops_ends_its_work_and_then_hands_over_at_once() -> None:
    async def story() -> None:
        leases = Leases()
        first = Worker("first", leases)
        await until(lambda: first.began)
        second = Worker("second", leases)
        await asyncio.sleep(100)
        assert not second.began
        assert (len(first.began), first.ended) == (1, [])
        left = asyncio.get_running_loop().time()
        await first.stop()
        assert (leases.holder, len(first.ended)) == ("", 1)
        assert await until(lambda: second.began) - left <= 1.1
        await second.stop()
        assert leases.holder == ""

    run(story())


@pytest.mark.parametrize("state", ["away", "hangs"])
def test_work_ends_when_the_lease_cannot_be_renewed_and_begins_again_when_it_can(state: str) -> None:
    async def story() -> None:
        leases = Leases()
        worker = Worker("first", leases)
        await until(lambda: worker.began)
        await asyncio.sleep(5)
        leases.state = state
        cut = asyncio.get_running_loop().time()
        ended = await until(lambda: worker.ended)
        assert 4 < ended - cut <= 8.1, "it must end after the renewal is due and before the hold ends"
        await asyncio.sleep(60)
        assert (len(worker.began), worker.turns_without_lease) == (1, 0)
        leases.state = "well"
        await until(lambda: len(worker.began) == 2)
        await worker.stop()

    run(story())


def test_a_renewal_with_a_lost_answer_is_read_back_and_the_work_continues() -> None:
    async def story() -> None:
        leases = Leases()
        worker = Worker("first", leases)
        await until(lambda: worker.began)
        leases.state = "swallows"
        await asyncio.sleep(60)
        assert (leases.state, len(worker.began), worker.ended) == ("well", 1, [])
        await worker.stop()

    run(story())


def test_a_lease_taken_by_another_process_ends_the_work_at_the_next_renewal() -> None:
    async def story() -> None:
        leases = Leases()
        worker = Worker("first", leases)
        await until(lambda: worker.began)
        assert leases.document is not None
        leases.document = {
            "metadata": {"resourceVersion": "9"},
            "spec": {"holderIdentity": "other", "leaseDurationSeconds": 12},
        }
        taken = asyncio.get_running_loop().time()
        assert await until(lambda: worker.ended) - taken < 5, (
            "it must end at the next renewal, before its own hold ends"
        )
        assert leases.holder == "other"
        await worker.stop()
        assert leases.holder == "other", "a Lease that it does not hold must not be released"

    run(story())


def test_failed_work_ends_the_process_and_releases_the_lease() -> None:
    async def story() -> None:
        leases = Leases()

        async def fail() -> None:
            raise ValueError("broken")

        loop = asyncio.get_running_loop()
        leadership = Leadership(leases, "halcyon", "operator", "first", clock=loop.time, wall=lambda: at(0))  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="broken"):
            await leadership.campaign(fail)
        assert leases.holder == ""

    run(story())


class Connection:
    """The part of the official client that the operator uses."""

    def __init__(self) -> None:
        self.configuration = self
        self.host = "https://api.invalid"
        self.sent: list[tuple[str, float | None]] = []

    async def update_params_for_auth(self, *_: Any) -> None:
        return None

    async def call_api(
        self, method: str, _url: str, _headers: Any, _body: Any, _form: Any, timeout: aiohttp.ClientTimeout
    ) -> Any:
        self.sent.append((method, timeout.total))
        raise OSError("nobody there")


class Busy(Connection):
    """An API server that answers 429 with Retry-After."""

    status, headers = 429, {"Retry-After": "7"}

    async def call_api(self, *_: Any) -> Any:
        return self

    async def read(self) -> bytes:
        return b'{"reason": "TooManyRequests", "message": "please"}'


def test_the_retry_after_of_an_overloaded_api_server_is_respected() -> None:
    async def story() -> None:
        api = KubernetesApi(Busy(), Metrics().api_requests)  # type: ignore[arg-type]
        with pytest.raises(ApiError, match="TooManyRequests: please") as refusal:
            await api.request("GET", "/path", "things")
        assert refusal.value.retry_after == 7
        queue: WorkQueue[str] = WorkQueue(lambda: 0.0)
        assert queue.add_failed("a", refusal.value.retry_after) == 7
        assert queue.add_failed("b") < 1
        queue.close()

    run(story())


def test_no_write_is_sent_without_the_lease_or_lasts_longer_than_the_lease() -> None:
    async def story() -> None:
        connection, left = Connection(), [5.0]
        api = KubernetesApi(connection, Metrics().api_requests)  # type: ignore[arg-type]
        api.fence(lambda: left[0])
        for method in ("GET", "POST", "PATCH", "DELETE"):
            with pytest.raises(ApiError, match="did not answer"):
                await api.request(method, "/path", "things")
        assert connection.sent == [("GET", 30), ("POST", 5.0), ("PATCH", 5.0), ("DELETE", 5.0)]
        left[0] = 0.0
        for method in ("POST", "PATCH", "DELETE", "PUT"):
            with pytest.raises(NotLeading):
                await api.request(method, "/path", "things")
        assert len(connection.sent) == 4

    run(story())
