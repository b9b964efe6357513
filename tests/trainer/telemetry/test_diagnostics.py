"""Diagnostics: profiles on request, their folders below the root, percentiles, and the processes that the others wait
for.
"""

from __future__ import annotations

import http.client
import json
from contextlib import closing
from pathlib import Path

import pytest

from halcyon.host.storage.store import Store
from halcyon.telemetry import ProfileRequests, RunIdentity, TelemetryServer
from halcyon.telemetry.diagnostics import (
    KEPT_PROFILES,
    keep_profile,
    percentiles,
    profile_folders,
    profile_numbers,
    slow_processes,
)
from halcyon_api.spec.checkpoint import CheckpointSpec
from halcyon_api.spec.telemetry import ProfileSpec
from tests.suite.limits import limit
from tests.trainer.telemetry.fakes import Scene

TOKEN = "the-secret-of-the-pod"  # noqa: S105


def test_percentiles_are_nearest_ranks() -> None:
    assert percentiles([float(number) for number in range(1, 101)]) == {
        "p50": 50.0,
        "p90": 90.0,
        "p99": 99.0,
        "count": 100,
    }
    assert percentiles([2.0]) == {"p50": 2.0, "p90": 2.0, "p99": 2.0, "count": 1}
    assert percentiles([]) == {}


@pytest.mark.parametrize(
    ("seconds", "slow"),
    [
        ({0: 1.0, 1: 1.1, 2: 0.1, 3: 1.2}, (2,)),
        ({0: 1.0, 1: 0.9}, ()),
        ({0: 0.001, 1: 0.0001}, ()),
        ({0: 0.0}, ()),
    ],
    ids=["one does not wait", "all wait alike", "too little to tell", "one process"],
)
def test_the_slow_process_is_the_one_that_waits_for_nobody(seconds: dict[int, float], slow: tuple[int, ...]) -> None:
    assert tuple(slow_processes(seconds, window_seconds=4.0)) == slow


def test_the_newest_profiles_stay_and_have_the_profile_numbers_every_process(tmp_path: Path) -> None:
    spec = CheckpointSpec(root=f"file://{tmp_path}/root")
    for step in range(1, KEPT_PROFILES + 3):
        for process in (1, 0):
            identity = RunIdentity("run", attempt=1 + step // 4, restart=0, process_index=process)
            kept = keep_profile(
                spec,
                identity,
                step,
                {f"process-{process}.trace.json.gz": b"x" * 10},
                {"step": step},
                timeout_seconds=limit(5),
            )
    assert (kept.size_bytes, kept.left_out) == (10, ())
    store = Store(spec)
    found = profile_folders(store)
    assert [folder.split("/")[1] for folder in found] == [
        f"{step:012d}.{1 + step // 4}.0" for step in range(3, KEPT_PROFILES + 3)
    ]
    assert profile_numbers(store, found[-1]) == {0: {"step": KEPT_PROFILES + 2}, 1: {"step": KEPT_PROFILES + 2}}
    store.write(f"{found[-1]}process-0.json", b"{")
    assert list(profile_numbers(store, found[-1])) == [1], "a damaged file is left out"


def test_a_request_is_taken_once() -> None:
    requests = ProfileRequests()
    assert requests.take() is None
    requests.request(7, step=3)
    requests.signalled()
    assert (requests.take(), requests.take()) == (7, None)
    requests.signalled()
    assert (requests.take(), requests.take()) == (ProfileSpec(at_step=2).steps, None)


@pytest.mark.parametrize(
    ("body", "token", "code"),
    [
        ({"run": "demo", "steps": 5}, TOKEN, 202),
        ({"run": "demo", "steps": 5}, "other", 403),
        ({"run": "demo", "steps": 0}, TOKEN, 400),
        ({"run": "another"}, TOKEN, 409),
    ],
)
def test_a_profile_is_requested_over_http_with_the_token(body: dict[str, object], token: str, code: int) -> None:
    requests = ProfileRequests()
    with closing(TelemetryServer(Scene().reporter, 0, token=TOKEN, profiles=requests)) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=limit(30))
        connection.request("POST", "/profile", json.dumps(body), {"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        assert answer.status == code
        content = answer.read()
        connection.close()
    assert requests.take() == (5 if code == 202 else None)
    if code == 202:
        assert json.loads(content) == {"step": 0, "steps": 5}
