"""Commands that wait use a watch and do not poll: the rules, and the real client with a server that counts requests."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from halcyon_cli.cluster import Runs
from halcyon_cli.commands.requests import refresh, wait_for
from halcyon_cli.commands.views import status
from halcyon_cli.output import Rejected
from halcyon_cli.watching import Document, WatchEnded, documents
from tests.cli.api_server import Server, event, run
from tests.suite.limits import limit


class Story:
    """Reads and watches with these results, in order; `done` records the calls."""

    def __init__(self, *happens: Document | list[dict[str, Any] | Exception]) -> None:
        self._happens = iter(happens)
        self.done: list[str] = []

    def look(self) -> Document:
        self.done.append("look")
        found = next(self._happens)
        assert isinstance(found, dict)
        return found

    def watch(self, version: str) -> Iterator[dict[str, Any]]:
        self.done.append(f"watch from {version}")
        for item in next(self._happens):
            if isinstance(item, Exception):
                raise item
            assert isinstance(item, dict)
            yield item

    def pause(self) -> None:
        self.done.append("pause")

    def first(self, count: int) -> list[str]:
        found = itertools.islice(documents(self.look, self.watch, self.pause), count)
        return [document["metadata"]["resourceVersion"] for document in found]


def test_the_run_is_read_once_and_then_watched() -> None:
    changes = [event("MODIFIED", run(6)), event("BOOKMARK", run(7)), event("MODIFIED", run(9))]
    story = Story(run(5), changes)
    assert story.first(3) == ["5", "6", "9"]
    assert story.done == ["look", "watch from 5"]


def test_a_watch_that_the_server_ends_is_followed_by_a_read_at_once() -> None:
    story = Story(run(5), [event("MODIFIED", run(6))], run(6), [event("MODIFIED", run(8))])
    assert story.first(4) == ["5", "6", "6", "8"]
    assert story.done == ["look", "watch from 5", "look", "watch from 6"]


def test_a_broken_watch_is_followed_by_a_pause() -> None:
    story = Story(run(5), [event("MODIFIED", run(6)), WatchEnded()], run(9), [])
    assert story.first(3) == ["5", "6", "9"]
    assert story.done == ["look", "watch from 5", "pause", "look"]


def test_a_run_that_is_deleted_and_created_again_is_found() -> None:
    story = Story(run(5), [event("DELETED", run(6)), event("MODIFIED", run(7))], run(20))
    assert story.first(2) == ["5", "20"], "a new run of the same name must be found"


def test_a_wait_reads_the_run_once_and_watches_its_changes(
    server: Server, runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    waiting = threading.Thread(target=wait_for, args=(runs, "small", lambda status: status.phase == "Suspended"))
    waiting.start()
    asked = server.watched.get(timeout=limit(20))
    assert (asked["fieldSelector"], asked["resourceVersion"], asked["watch"]) == (
        ["metadata.name=small"],
        ["5"],
        ["true"],
    )
    for version, phase in ((6, "Running"), (7, "Suspending"), (8, "Suspended")):
        server.events.put(event("MODIFIED", run(version, phase)))
    waiting.join(timeout=limit(20))
    assert not waiting.is_alive()
    assert server.looks == 1
    assert capsys.readouterr().out.split() == ["Running", "Suspending", "Suspended"]


def test_a_wait_ignores_a_status_from_before_the_edit(
    server: Server, runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    """As for `resume --wait` of a failed run: its status from before the edit is no answer."""
    for version, phase, seen in ((6, "Failed", 1), (7, "Starting", 2), (8, "Running", 2)):
        server.events.put(
            event("MODIFIED", run(version, phase) | {"status": {"phase": phase, "observedGeneration": seen}})
        )
    server.run = run(5, "Failed")
    wait_for(runs, "small", lambda status: status.phase in ("Running", "Failed"), 2)
    assert capsys.readouterr().out.split() == ["Starting", "Running"]


def test_a_suspended_run_reads_its_defaults_later_and_refresh_does_not_wait(
    server: Server, runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    server.run = run(5, "Suspended")
    refresh("small", wait=True)
    assert len(server.patches) == 1
    assert capsys.readouterr().out == "small is Suspended and reads its defaults again when it is resumed\n"


def invalid(version: int, message: str) -> dict[str, Any]:
    return run(version) | {"status": {"phase": "Running", "conditions": [condition("Stalled", "InvalidSpec", message)]}}


def condition(kind: str, reason: str, message: str) -> dict[str, Any]:
    return {
        "type": kind,
        "status": "True",
        "reason": reason,
        "message": message,
        "lastTransitionTime": "2026-03-01T12:00:00Z",
    }


def test_invalid_defaults_end_the_wait_with_the_reason(
    server: Server, runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    """A problem from before the request is reported at once, but the wait goes on: the user may fix it."""
    server.run = invalid(5, "spec.defaults: there is no such thing")
    server.events.put(event("MODIFIED", invalid(6, "spec.defaults: there is no such thing")))
    server.events.put(event("MODIFIED", invalid(7, "TrainingRunDefaults team/default: spec.image: no image")))
    with pytest.raises(typer.Exit):
        refresh("small", wait=True)
    shown = capsys.readouterr()
    assert "it cannot use them until this is fixed: spec.defaults: there is no such thing" in shown.out
    assert shown.err.strip() == (
        "run small cannot use its defaults: TrainingRunDefaults team/default: spec.image: no image; it retries by "
        "itself once that is fixed"
    )


def test_a_status_that_is_watched_is_shown_until_the_run_has_ended(
    server: Server, runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    for version, phase in ((6, "Restarting"), (7, "Succeeded")):
        server.events.put(event("MODIFIED", run(version, phase)))
    status("small", watch=True)
    assert server.looks == 1
    assert "Succeeded" in capsys.readouterr().out


def test_a_run_that_is_deleted_meanwhile_ends_the_wait(server: Server, runs: Runs) -> None:
    changes = runs.changes("small")
    assert next(changes)["metadata"]["resourceVersion"] == "5"
    server.run = None
    server.events.put(event("DELETED", run(6)))
    with pytest.raises(Rejected, match="there is no TrainingRun small in namespace training"):
        next(changes)


def test_an_expired_resource_version_is_followed_by_a_read(
    server: Server, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("halcyon_cli.cluster._PAUSE_SECONDS", 0.0)
    changes = runs.changes("small")
    next(changes)
    server.run = run(90)
    server.events.put(event("ERROR", {"code": 410, "reason": "Expired", "message": "too old"}))
    assert next(changes)["metadata"]["resourceVersion"] == "90"


def test_a_user_without_the_watch_right_polls(server: Server, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("halcyon_cli.cluster._PAUSE_SECONDS", 0.0)
    server.refuses_watches = True
    changes = runs.changes("small")
    assert [next(changes)["metadata"]["resourceVersion"] for _ in range(3)] == ["5", "5", "5"]
    assert server.looks == 3
