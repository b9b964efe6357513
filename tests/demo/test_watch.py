"""The watch sees runs, pods and each line of a log once, also when the API server is away for a while."""

import json
import threading
from pathlib import Path

import pytest

from halcyon_cli.cluster import Runs
from halcyon_demo.watch import Watch
from halcyon_devcluster import Kubectl
from halcyon_devcluster.waiting import until
from tests.cli.api_server import CUT, Server, event, pod, run


def line(step: int) -> str:
    """A line of a trainer as the kubelet returns it, with its own time before it."""
    at = f"2026-03-01T12:00:{step:02}"
    fields = {"event": "step", "time": f"{at}.000Z", "run": "small", "attempt": 0, "restart": 0, "process": 0}
    return f"{at}.000000001Z {json.dumps(fields | {'step': step})}\n"


def test_each_line_is_seen_once_across_an_outage(
    server: Server, runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("halcyon_cli.cluster._PAUSE_SECONDS", 0.01)
    monkeypatch.setattr("halcyon_demo.watch._PAUSE_SECONDS", 0.01)
    server.run = run(5) | {"metadata": {"name": "small", "uid": "u", "resourceVersion": "5"}}
    first = pod("first")
    first["metadata"]["labels"] = {"halcyon.dev/run": "small"}
    server.pods["first"] = first
    away = threading.Event()
    server.logs["first"].put([line(1), line(2), away, CUT])
    server.logs["first"].put([line(1), line(2), line(3)])
    with Watch(Kubectl(Path("kubectl"), tmp_path / "config"), "training") as watch:
        seen = watch.observations

        def steps() -> list[int]:
            return [one.step for one in seen.lines("small")]

        def wait_for(expected: list[int]) -> None:
            until(lambda: steps() == expected, timeout_seconds=20, failure=lambda: f"{steps()}, not {expected}")

        wait_for([1, 2])
        server.is_down = True
        away.set()
        until(lambda: server.turned_away > 2, timeout_seconds=20, failure=lambda: "the log is not read again")
        server.is_down = False
        wait_for([1, 2, 3])
        first["status"] = pod("first", "terminated", "Succeeded")["status"]
        server.events.put(event("MODIFIED", server.run | {"status": {"phase": "Succeeded"}}))
        until(
            lambda: (found := seen.run("small")) is not None and found.status.phase == "Succeeded",
            timeout_seconds=20,
            failure=lambda: str(seen.run("small")),
        )
        watch.finish_logs("small")
        assert [(one.name, one.started) for one in seen.pods("small")] == [("first", True)]
    assert steps() == [1, 2, 3]
