"""A run's logs are followed through all its process groups: watches report pods, and after a broken connection no line
is lost or printed twice."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator

import pytest

from halcyon_cli.cluster import Runs
from halcyon_cli.following import LogLine, follow_run
from halcyon_cli.output import Rejected
from tests.cli.api_server import CUT, Server, event, pod, run
from tests.suite.limits import limit


def line(second: int, word: str) -> str:
    """A log line as the kubelet returns it, with its own timestamp before it."""
    at = f"2026-03-01T12:00:{second:02}"
    return f"{at}.000000001Z {json.dumps({'event': word, 'time': f'{at}.000Z'})}\n"


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("halcyon_cli.cluster._PAUSE_SECONDS", 0.01)
    monkeypatch.setattr("halcyon_cli.following._WINDOW_SECONDS", 0.05)


class Followed:
    """A run whose logs a separate thread follows."""

    def __init__(self, runs: Runs) -> None:
        self._lines: queue.Queue[LogLine | Exception | None] = queue.Queue()
        threading.Thread(target=self._follow, args=(follow_run(runs, "small"),), daemon=True).start()

    def _follow(self, lines: Iterator[LogLine]) -> None:
        try:
            for one in lines:
                self._lines.put(one)
            self._lines.put(None)
        except Rejected as refusal:
            self._lines.put(refusal)

    def next(self) -> str:
        """The event of the next line; "" at the end."""
        found = self._lines.get(timeout=limit(20))
        if isinstance(found, Exception):
            raise found
        return found.event if found is not None else ""

    def rest(self) -> list[str]:
        return list(iter(self.next, ""))


def test_pods_are_listed_once_and_then_watched(server: Server, runs: Runs) -> None:
    server.pods["first"] = pod("first", "terminated", "Failed")
    server.logs["first"].put([line(1, "start"), line(2, "step")])
    followed = Followed(runs)
    assert [followed.next(), followed.next()] == ["start", "step"]
    asked = server.pod_watched.get(timeout=limit(20))
    assert (asked["resourceVersion"], asked["watch"]) == (["40"], ["true"])
    assert asked["labelSelector"] == ["halcyon.dev/run=small,halcyon.dev/role notin (probe,guard)"]
    # The next process group: first its pod is created, later its container starts.
    server.pods["second"] = pod("second")
    server.pod_events.put(event("ADDED", pod("second", "waiting", "Pending")))
    server.logs["second"].put([line(9, "resumed")])
    server.pod_events.put(event("MODIFIED", pod("second")))
    assert followed.next() == "resumed"
    assert (server.pod_lists, server.looks) == (1, 1), "the command must not poll"
    server.pods["second"] = pod("second", "terminated", "Succeeded")
    server.events.put(event("MODIFIED", run(6, "Succeeded")))
    assert followed.rest() == []
    assert server.looks == 1


def test_a_broken_log_stream_continues_without_lost_or_repeated_lines(server: Server, runs: Runs) -> None:
    server.pods["first"] = pod("first")
    lines = [line(second, f"step {second}") for second in range(1, 7)]
    server.logs["first"].put([*lines[:2], lines[2][:40], CUT])
    server.logs["first"].put(lines[:4])  # and the server ends this one
    last = threading.Event()
    server.logs["first"].put([*lines[1:5], last, lines[5]])
    server.logs["first"].put(lines)
    followed = Followed(runs)
    assert [followed.next() for _ in range(5)] == [f"step {second}" for second in range(1, 6)]
    server.pods["first"] = pod("first", "terminated", "Succeeded")
    server.events.put(event("MODIFIED", run(6, "Succeeded")))
    last.set()
    assert followed.rest() == ["step 6"]
    first, *others = server.log_queries["first"]
    assert "sinceSeconds" not in first
    assert all(30 <= int(query["sinceSeconds"][0]) <= 30 + limit(30) for query in others), (
        "a long log must not be read completely again"
    )


def test_the_last_lines_of_a_pod_are_read_after_a_broken_connection(server: Server, runs: Runs) -> None:
    """The pod ends between the broken connection and the next request."""
    server.pods["first"] = pod("first")
    broken = threading.Event()
    server.logs["first"].put([line(1, "step"), broken, CUT])
    server.logs["first"].put([line(1, "step"), line(2, "done")])
    followed = Followed(runs)
    assert followed.next() == "step"
    server.pods["first"] = pod("first", "terminated", "Succeeded")
    server.events.put(event("MODIFIED", run(6, "Succeeded")))
    broken.set()
    assert followed.rest() == ["done"]


def test_a_kubelet_without_a_log_yet_does_not_hide_later_lines(server: Server, runs: Runs) -> None:
    server.pods["first"] = pod("first")
    server.logs["first"].put(["unable to retrieve container logs\n"])
    server.logs["first"].put([line(1, "step")])
    followed = Followed(runs)
    assert followed.next() == "step"


def test_a_user_without_the_right_to_read_logs_gets_an_error(server: Server, runs: Runs) -> None:
    server.pods["first"], server.refuses_logs = pod("first"), 403
    with pytest.raises(Rejected, match="does not let you read the log of pod training/first"):
        Followed(runs).next()


def test_logs_are_followed_past_a_node_that_does_not_answer(server: Server, runs: Runs) -> None:
    """The log of a pod on a lost node cannot be read; those of the next process group can."""
    server.pods["first"], server.refuses_logs = pod("first"), 500
    followed = Followed(runs)
    server.pod_watched.get(timeout=limit(20))
    del server.pods["first"]
    server.refuses_logs = 0
    server.pods["second"] = pod("second", "terminated", "Succeeded")
    server.logs["second"].put([line(9, "resumed")])
    server.pod_events.put(event("ADDED", server.pods["second"]))
    assert followed.next() == "resumed"


def test_following_ends_when_the_run_is_deleted(server: Server, runs: Runs) -> None:
    followed = Followed(runs)
    server.watched.get(timeout=limit(20))
    server.run = None
    server.events.put(event("DELETED", run(6)))
    with pytest.raises(Rejected, match="there is no TrainingRun small"):
        followed.next()
