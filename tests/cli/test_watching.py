"""Commands that wait are told, and do not ask again and again: the rules, and the real client against a server that counts."""

from __future__ import annotations

import itertools
import json
import queue
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from halcyon_cli.cluster import Place, Runs
from halcyon_cli.commands import _wait_for, status
from halcyon_cli.telling import Refused
from halcyon_cli.watching import Document, WatchEnded, documents


def run(version: int, phase: str = "Running") -> Document:
    return {"metadata": {"name": "small", "resourceVersion": str(version)}, "spec": {}, "status": {"phase": phase}}


def event(kind: str, document: Document) -> dict[str, Any]:
    return {"type": kind, "object": document}


class Story:
    """Looks and watches that happen as they are written; what was done is noted."""

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
        for told in next(self._happens):
            if isinstance(told, Exception):
                raise told
            assert isinstance(told, dict)
            yield told

    def pause(self) -> None:
        self.done.append("pause")

    def first(self, count: int) -> list[str]:
        found = itertools.islice(documents(self.look, self.watch, self.pause), count)
        return [document["metadata"]["resourceVersion"] for document in found]


def test_one_look_and_then_what_the_watch_tells() -> None:
    told = [event("MODIFIED", run(6)), event("BOOKMARK", run(7)), event("MODIFIED", run(9))]
    story = Story(run(5), told)
    assert story.first(3) == ["5", "6", "9"]
    assert story.done == ["look", "watch from 5"]


def test_a_watch_that_the_server_ends_is_followed_by_a_look_at_once() -> None:
    story = Story(run(5), [event("MODIFIED", run(6))], run(6), [event("MODIFIED", run(8))])
    assert story.first(4) == ["5", "6", "6", "8"]
    assert story.done == ["look", "watch from 5", "look", "watch from 6"]


def test_a_watch_that_breaks_off_is_followed_by_a_pause() -> None:
    story = Story(run(5), [event("MODIFIED", run(6)), WatchEnded()], run(9), [])
    assert story.first(3) == ["5", "6", "9"]
    assert story.done == ["look", "watch from 5", "pause", "look"]


def test_what_was_deleted_is_looked_for() -> None:
    story = Story(run(5), [event("DELETED", run(6)), event("MODIFIED", run(7))], run(20))
    assert story.first(2) == ["5", "20"], "another one of the same name"


class Server(ThreadingHTTPServer):
    """An API server with one run, which counts what it is asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.run: Document | None = run(5)
        self.looks = 0
        self.watched: queue.Queue[dict[str, list[str]]] = queue.Queue()
        self.events: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.refuses_watches = False


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        path = urlsplit(self.path)
        if path.path.endswith("/trainingruns"):
            self._watch(parse_qs(path.query))
            return
        if path.path.endswith("/pods"):
            self._answer(200, {"kind": "PodList", "apiVersion": "v1", "items": []})
            return
        self.server.looks += 1
        if self.server.run is None:
            self._answer(404, {"message": "gone"})
        else:
            self._answer(200, self.server.run)

    def _answer(self, code: int, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _watch(self, query: dict[str, list[str]]) -> None:
        self.server.watched.put(query)
        if self.server.refuses_watches:
            self._answer(403, {"message": "no watches"})
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while (told := self.server.events.get()) is not None:
            line = json.dumps(told).encode() + b"\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.events.put(None)
        server.shutdown()
        thread.join()


@pytest.fixture
def runs(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "training"}}],
        "current-context": "x",
    }
    (tmp_path / "config").write_text(yaml.safe_dump(config))
    # The client reads the variable when it is imported.
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "config"))
    return Runs(Place())


def test_a_wait_looks_once_and_is_told_the_rest(server: Server, runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    waiting = threading.Thread(target=_wait_for, args=(runs, "small", lambda status: status.phase == "Suspended"))
    waiting.start()
    asked = server.watched.get(timeout=20)
    assert (asked["fieldSelector"], asked["resourceVersion"], asked["watch"]) == (["metadata.name=small"], ["5"], ["true"])
    for version, phase in ((6, "Running"), (7, "Suspending"), (8, "Suspended")):
        server.events.put(event("MODIFIED", run(version, phase)))
    waiting.join(timeout=20)
    assert not waiting.is_alive()
    assert server.looks == 1
    assert capsys.readouterr().out.split() == ["Running", "Suspending", "Suspended"]


def test_a_status_that_is_watched_is_shown_until_the_run_has_ended(server: Server, runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
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
    with pytest.raises(Refused, match="there is no TrainingRun small in namespace training"):
        next(changes)


def test_a_version_that_is_too_old_is_followed_by_a_look(server: Server, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("halcyon_cli.cluster._PAUSE_SECONDS", 0.0)
    changes = runs.changes("small")
    next(changes)
    server.run = run(90)
    server.events.put(event("ERROR", {"code": 410, "reason": "Expired", "message": "too old"}))
    assert next(changes)["metadata"]["resourceVersion"] == "90"


def test_who_may_not_watch_looks_now_and_then(server: Server, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("halcyon_cli.cluster._PAUSE_SECONDS", 0.0)
    server.refuses_watches = True
    changes = runs.changes("small")
    assert [next(changes)["metadata"]["resourceVersion"] for _ in range(3)] == ["5", "5", "5"]
    assert server.looks == 3
