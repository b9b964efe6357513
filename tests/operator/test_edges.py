"""The parts that do I/O, each against a real counterpart: an HTTP server, a folder, an event loop."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from halcyon_api.checkpoint_documents import encode_head
from halcyon_api.post_requests import SaveRequest
from halcyon_api.spec.checkpoint import CheckpointSpec
from halcyon_operator.kube.client import merge_patch
from halcyon_operator.model.decision import SaveAsk
from halcyon_operator.model.views import HeadUnreachable
from halcyon_operator.observe.checkpoints import Checkpoints, parse_head
from halcyon_operator.observe.memory import MAX_ENDINGS_A_RUN, PodEndings
from halcyon_operator.observe.pods import parse_pod
from halcyon_operator.observe.trainers import MAX_REPORT_BYTES, ReportReading, Trainers
from halcyon_operator.run.health import STUCK_SECONDS, WriteWatch
from halcyon_operator.run.metrics import HttpServer, Metrics
from tests.operator.builders import deleted, ended, head, pod, report
from tests.operator.simulation import _merged
from tests.ports import free_port

GOOD = json.dumps(report().document()).encode()


def asked(answer: Callable[[web.Request], Coroutine[Any, Any, web.StreamResponse]]) -> ReportReading:
    """The operator's reading of a trainer that answers like this."""

    async def run() -> ReportReading:
        app = web.Application()
        app.router.add_get("/status", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        trainers = Trainers(Metrics().trainer_polls)
        try:
            return await trainers.read(parse_pod(pod(podIP="127.0.0.1")), runner.addresses[0][1], "demo")
        finally:
            await trainers.close()
            await runner.cleanup()

    return asyncio.run(run())


def save_asked(
    answer: Callable[[web.Request], Coroutine[Any, Any, web.StreamResponse]], port: int | None = None
) -> str:
    """The result of a save request to a trainer that answers like this."""

    async def run() -> str:
        app = web.Application()
        app.router.add_post("/save", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        trainers = Trainers(Metrics().trainer_polls)
        request = SaveRequest(id="user-1", run="demo", attempt=1, restart=0)
        try:
            return await trainers.send_save_request(
                SaveAsk("127.0.0.1", port or runner.addresses[0][1], "the-token", request)
            )
        finally:
            await trainers.close()
            await runner.cleanup()

    return asyncio.run(run())


def test_a_save_request_has_the_token_and_the_process_group() -> None:
    seen: list[Any] = []

    async def take(request: web.Request) -> web.Response:
        seen.append((request.headers["Authorization"], await request.json()))
        return web.json_response({"id": "user-1", "step": 3}, status=202)

    assert save_asked(take) == ""
    assert seen == [("Bearer the-token", {"id": "user-1", "run": "demo", "attempt": 1, "restart": 0})]


def test_a_failed_save_request_reports_its_cause() -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=409)

    async def elsewhere(_: web.Request) -> web.Response:
        raise web.HTTPTemporaryRedirect("http://elsewhere.invalid/save")

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = unused.getsockname()[1]
        assert save_asked(refuse, nobody) == f"no connection to 127.0.0.1:{nobody}"
    assert save_asked(refuse) == "it answered with HTTP status 409"
    assert save_asked(elsewhere) == "it answered with HTTP status 307"


async def fine(_: web.Request) -> web.Response:
    return web.Response(body=GOOD)


async def broken(_: web.Request) -> web.Response:
    return web.Response(body=b"{")


async def away(_: web.Request) -> web.Response:
    return web.Response(status=503)


async def elsewhere(_: web.Request) -> web.Response:
    return web.Response(status=302, headers={"Location": "http://169.254.169.254/latest"})


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(4):
        await response.write(b" " * MAX_REPORT_BYTES)
    return response


async def other(_: web.Request) -> web.Response:
    return web.Response(body=json.dumps(report(attempt=9).document()).encode())


async def absurd(_: web.Request) -> web.Response:
    return web.Response(body=json.dumps(report().document() | {"progress": {"step": 10**30}}).encode())


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (broken, "not valid"),
        (away, "status 503"),
        (elsewhere, "status 302"),
        (endless, "larger than"),
        (other, "attempt 9"),
        (absurd, ""),
    ],
)
def test_an_invalid_answer_of_a_trainer_is_reported_as_a_problem(answer: Any, problem: str) -> None:
    reading = asked(answer)
    assert reading.report is None
    assert problem in reading.problem


def test_a_valid_report_is_accepted() -> None:
    assert asked(fine).report == report()


def test_an_unreachable_trainer_is_reported() -> None:
    async def run() -> ReportReading:
        trainers = Trainers(Metrics().trainer_polls)
        try:
            return await trainers.read(parse_pod(pod(podIP="127.0.0.1")), free_port(), "demo")
        finally:
            await trainers.close()

    assert "no connection" in asyncio.run(run()).problem


def read(checkpoints: Checkpoints, spec: CheckpointSpec) -> Any:
    return asyncio.run(checkpoints.read(spec))


def test_a_damaged_head_is_out_of_reach() -> None:
    body = encode_head(head(12).head)
    assert parse_head(body) == head(12)
    for damaged, reason in (
        (b'{"formatVersion": 9}', "damaged"),
        (body.replace(b'"step":12', b'"step":13'), "does not have the hash"),
    ):
        reading = parse_head(damaged)
        assert isinstance(reading, HeadUnreachable)
        assert reason in reading.reason


def test_a_root_on_a_volume_of_the_pods_is_out_of_reach() -> None:
    assert read(Checkpoints(Metrics().head_reads), CheckpointSpec(root="file:///volume/run")) == HeadUnreachable(
        "it is on a volume of the pods"
    )


def test_a_store_that_is_not_there_is_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
    metrics = Metrics()
    endpoint = f"http://127.0.0.1:{free_port()}"
    spec = CheckpointSpec(root="s3://bucket/run", endpoint=endpoint)
    assert isinstance(read(Checkpoints(metrics.head_reads, (endpoint,)), spec), HeadUnreachable)
    assert (
        metrics.registry.get_sample_value("halcyon_operator_checkpoint_head_reads_total", {"result": "unreachable"})
        == 1
    )


def test_only_allowed_endpoints_are_contacted() -> None:
    spec = CheckpointSpec(root="s3://bucket/run", endpoint="http://evil:1")
    reading = read(Checkpoints(Metrics().head_reads, s3_endpoints=("http://store:7070",)), spec)
    assert isinstance(reading, HeadUnreachable)
    assert "objectStore.s3.endpoints" in reading.reason


def test_the_operator_is_healthy_if_the_watch_shows_its_writes_in_time() -> None:
    now = [0.0]
    echo = WriteWatch(lambda: now[0])
    echo.record_write(("ns", "a"), "10")
    now[0] = STUCK_SECONDS + 1
    assert echo.stuck
    assert not echo.saw(("ns", "a"), "9")
    assert echo.stuck, "an older version must not count as the echo"
    assert not echo.saw(("ns", "a"), "11"), "another client wrote after the operator"
    assert not echo.stuck
    echo.record_write(("ns", "a"), "20")
    assert echo.saw(("ns", "a"), "20"), "it is the operator's own write"
    assert not echo.saw(("ns", "c"), "31"), "the watch may be faster than the answer to the write"
    echo.record_write(("ns", "c"), "31")
    assert echo.lag_seconds == 0
    echo.record_write(("ns", "b"), "12")
    now[0] += STUCK_SECONDS + 1
    echo.gone(("ns", "b"))
    assert not echo.stuck


def test_the_http_server_serves_metrics_health_and_readiness() -> None:
    async def run() -> list[tuple[int, str]]:
        trouble, ready = [""], [False]
        server = HttpServer(Metrics("1.2"), lambda: trouble[0], lambda: ready[0])
        port = free_port()
        await server.start(port)
        answers = []
        async with aiohttp.ClientSession() as http:
            for path in ("/metrics", "/healthz", "/readyz"):
                async with http.get(f"http://127.0.0.1:{port}{path}") as response:
                    answers.append((response.status, await response.text()))
            trouble[0], ready[0] = "the watches are dead", True
            for path in ("/healthz", "/readyz"):
                async with http.get(f"http://127.0.0.1:{port}{path}") as response:
                    answers.append((response.status, await response.text()))
        await server.stop()
        return answers

    metrics, *probes = asyncio.run(run())
    assert 'halcyon_operator_build_info{version="1.2"} 1.0' in metrics[1]
    assert [status for status, _ in probes] == [200, 503, 503, 200]
    assert probes[2][1] == "the watches are dead\n"


def test_recorded_pod_endings_are_bounded_and_can_be_forgotten() -> None:
    endings = PodEndings()
    key = ("default", "demo")
    assert not endings.record(key, parse_pod(pod()))
    assert endings.record(key, parse_pod(deleted(pod(), 5)))
    assert not endings.record(key, parse_pod(deleted(pod(), 5))), "the same end must not be recorded twice"
    assert endings.record(key, parse_pod(deleted(pod(**ended(42, 9)), 5)))
    assert [ending.exit_code for ending in endings.endings(key)] == [42]
    for number in range(MAX_ENDINGS_A_RUN + 10):
        dead = pod(1, 1, **ended(1, 5))
        dead["metadata"]["uid"] = f"pod-{number}"
        endings.record(key, parse_pod(dead))
    assert len(endings.endings(key)) == MAX_ENDINGS_A_RUN
    endings.prune(key, 1, 2)
    assert endings.endings(key) == ()
    endings.record(key, parse_pod(pod(1, 2, **ended(1, 5))))
    endings.forget(key)
    assert endings.endings(key) == ()


JSON = st.recursive(
    st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)
DOCUMENTS = st.dictionaries(st.text(max_size=3), JSON, max_size=4)


@given(DOCUMENTS, DOCUMENTS)
def test_a_merge_patch_turns_one_document_into_the_other(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert _merged(old, merge_patch(old, new)) == new
    assert merge_patch(new, new) == {}
