"""Requests for a checkpoint: who may send one; each asks for one save, until a save begins; a failed save is
retried.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest

from halcyon.telemetry import SaveRequests, TelemetryServer
from halcyon.telemetry.requests import RETRY_SECONDS
from halcyon_api.post_requests import MAX_REMEMBERED_REQUESTS, MAX_SAVE_REQUEST_BYTES
from halcyon_api.status.progress import ProgressReport
from tests.trainer.telemetry.fakes import FakeTime, Scene

TOKEN = "a-token"  # noqa: S105
BODY = {"id": "user-1", "run": "demo", "attempt": 3, "restart": 1}


@pytest.fixture
def scene() -> Scene:
    scene = Scene()
    scene.start(resumed_step=40)
    scene.steps(41, 45)
    return scene


@pytest.fixture
def requests() -> SaveRequests:
    return SaveRequests()


@pytest.fixture
def client(scene: Scene, requests: SaveRequests) -> Iterator[httpx.Client]:
    with (
        closing(TelemetryServer(scene.reporter, 0, requests=requests, token=TOKEN)) as server,
        httpx.Client(base_url=f"http://127.0.0.1:{server.port}", trust_env=False) as client,
    ):
        yield client


def post(client: httpx.Client, token: str = TOKEN, **changes: Any) -> httpx.Response:
    return client.post("/save", json=BODY | changes, headers={"Authorization": f"Bearer {token}"})


def test_a_request_is_answered_at_once_with_its_step_and_shown(
    scene: Scene, requests: SaveRequests, client: httpx.Client
) -> None:
    answer = post(client)
    assert (answer.status_code, answer.json()) == (202, {"id": "user-1", "step": 45})
    assert answer.headers["connection"] == "close", "the client would reuse a connection that is about to close"
    assert requests.wanted
    shown = ProgressReport.model_validate_json(client.get("/status").content).save_requests
    assert [(taken.id, taken.step) for taken in shown] == [("user-1", 45)]


def test_the_same_request_asks_only_once(scene: Scene, requests: SaveRequests, client: httpx.Client) -> None:
    post(client)
    requests.save_begun()
    scene.steps(46, 50)
    assert post(client).json() == {"id": "user-1", "step": 45}
    assert not requests.wanted
    assert post(client, id="user-2").json() == {"id": "user-2", "step": 50}
    assert requests.wanted


@pytest.mark.parametrize("changes", [{"run": "other"}, {"attempt": 2}, {"attempt": 4}, {"restart": 0}])
def test_a_request_for_another_process_group_is_rejected(
    changes: dict[str, Any], requests: SaveRequests, client: httpx.Client
) -> None:
    answer = post(client, **changes)
    assert (answer.status_code, answer.text) == (409, "this is run demo, attempt 3, restart 1\n")
    assert not requests.wanted


@pytest.mark.parametrize(
    "header", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}, {"Authorization": "Bearer"}]
)
def test_a_request_without_the_token_is_rejected(
    header: dict[str, str], requests: SaveRequests, client: httpx.Client
) -> None:
    answer = client.post("/save", json=BODY, headers=header)
    assert answer.status_code == 403
    assert TOKEN not in answer.text
    assert not requests.wanted


def test_every_request_is_rejected_if_no_token_is_configured(scene: Scene, requests: SaveRequests) -> None:
    with closing(TelemetryServer(scene.reporter, 0, requests=requests)) as server:
        for header in ("Bearer", "Bearer None", f"Bearer {TOKEN}"):
            address = f"http://127.0.0.1:{server.port}/save"
            assert httpx.post(address, json=BODY, headers={"Authorization": header}, trust_env=False).status_code == 403
    assert not requests.wanted


def test_a_run_without_checkpoints_has_no_address_for_save_requests(scene: Scene) -> None:
    with closing(TelemetryServer(scene.reporter, 0)) as server:
        assert httpx.post(f"http://127.0.0.1:{server.port}/save", json=BODY, trust_env=False).status_code == 404


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"{", 400),
        (json.dumps(BODY | {"id": "two words"}).encode(), 400),
        (json.dumps(BODY | {"more": 1}).encode(), 400),
        (b" " * (MAX_SAVE_REQUEST_BYTES + 1), 413),
    ],
)
def test_an_invalid_body_is_rejected(content: bytes, code: int, requests: SaveRequests, client: httpx.Client) -> None:
    answer = client.post("/save", content=content, headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == code
    assert not requests.wanted
    assert client.get("/healthz").status_code == 200


def test_a_body_without_a_length_is_rejected(requests: SaveRequests, client: httpx.Client) -> None:
    answer = client.post("/save", content=iter([b"{}"]), headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 411


def test_a_failed_save_that_was_requested_is_wanted_again_after_a_delay() -> None:
    time = FakeTime()
    requests = SaveRequests(lambda: time.now)
    requests.failed()
    assert not requests.wanted, "no request had asked for the failed save"
    requests.request("one", 3)
    requests.save_begun()
    requests.failed()
    assert not requests.wanted
    time.pass_(RETRY_SECONDS)
    assert requests.wanted
    requests.save_begun()
    requests.failed()
    requests.request("two", 4)
    assert requests.wanted, "a new request does not wait for the retry"


def test_each_signal_requests_a_save() -> None:
    requests = SaveRequests()
    for _ in range(2):
        requests.signalled(10, None)
        assert requests.wanted
        requests.save_begun()
        assert not requests.wanted


def test_the_number_of_remembered_requests_is_bounded() -> None:
    requests = SaveRequests()
    for number in range(3 * MAX_REMEMBERED_REQUESTS):
        requests.request(f"r-{number}", number)
    assert [taken.step for taken in requests.taken] == list(
        range(2 * MAX_REMEMBERED_REQUESTS, 3 * MAX_REMEMBERED_REQUESTS)
    )
