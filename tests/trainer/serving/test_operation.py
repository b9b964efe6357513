"""Back-pressure, disconnects, keys, the end, and newer checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from halcyon.serving.access import Keys
from halcyon.serving.following import Follower
from halcyon.serving.limits import Limits
from halcyon.serving.metrics import Metrics
from halcyon.serving.served import Served, Source
from halcyon.serving.worker import Sharing
from halcyon_api.checkpoint_documents import HEAD_KEY, decode_head, encode_head
from halcyon_devcluster.waiting import until
from tests.suite.limits import limit
from tests.trainer.serving.running import SETTINGS, Running, held, running, write_model
from tests.trainer.weights.folders import imported, store_of

ASK: Any = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "hello"}],
    "max_tokens": 150,
    "seed": 3,
    "temperature": 2,
}
KEY = "key-of-this-test-0123"


@contextmanager
def asked(server: Running, **changes: Any) -> Iterator[Iterator[Any]]:
    """A stream whose first part has come."""
    with server.openai().chat.completions.create(**ASK | changes, stream=True, logprobs=True) as stream:
        parts = iter(stream)
        next(parts)
        yield parts


def outcome(server: Running, name: str) -> float:
    return (
        server.metrics.registry.get_sample_value(
            "halcyon_serving_requests_total", {"endpoint": "chat", "outcome": name}
        )
        or 0.0
    )


def pages_in_use(server: Running) -> int:
    free, pages = server.worker.free_pages
    return pages - free


@pytest.mark.slow
def test_too_many_requests_get_429_and_a_lost_client_frees_its_pages(tiny: Served) -> None:
    with running(tiny, Limits(requests=2), keys=Keys([KEY])) as server:
        client = server.openai(api_key=KEY)
        with pytest.raises(openai.AuthenticationError):
            server.openai().models.list()
        with held(server), client.chat.completions.create(**ASK, n=2, stream=True) as stream:
            next(iter(stream))
            with pytest.raises(openai.RateLimitError) as refused:
                client.chat.completions.create(**ASK)
            assert int(refused.value.response.headers["retry-after"]) >= 1
            # The first part only says who speaks; it comes before the engine has begun the text.
            until(
                lambda: pages_in_use(server) > 0,
                timeout_seconds=30,
                interval_seconds=0.01,
                failure=lambda: "the text has no pages",
            )
        server.wait_until_idle()  # the client has closed the stream
        until(
            lambda: outcome(server, "cancelled") == 1,
            timeout_seconds=10,
            interval_seconds=0.02,
            failure=lambda: "not counted",
        )
        assert outcome(server, "overloaded") == 1
        assert client.chat.completions.create(**ASK | {"max_tokens": 2}).choices[0].finish_reason in ("stop", "length")


@pytest.mark.slow
@pytest.mark.parametrize("share", ["key", pytest.param("all", marks=pytest.mark.variant)])
def test_a_key_does_not_show_what_another_key_asked(tiny: Served, share: Sharing) -> None:
    ask = ASK | {"messages": [{"role": "user", "content": "x y z " * 16}], "max_tokens": 2}
    other = f"{KEY}-other"
    with running(tiny, Limits(), keys=Keys([KEY, other]), settings=replace(SETTINGS, share=share)) as server:
        mine, theirs = (server.openai(api_key=key) for key in (KEY, other))

        def cached(client: openai.OpenAI) -> int:
            details = client.chat.completions.create(**ask).usage.prompt_tokens_details  # pyright: ignore[reportOptionalMemberAccess]
            assert details is not None
            return details.cached_tokens or 0

        assert cached(mine) == 0
        assert cached(mine) == 64
        assert cached(theirs) == (64 if share == "all" else 0)
        assert cached(theirs) == 64
        server.wait_until_idle()


@pytest.mark.slow
def test_a_signal_lets_requests_in_flight_end(tiny: Served) -> None:
    with (
        running(tiny, Limits(drain_seconds=limit(60))) as server,
        held(server) as gate,
        asked(server) as parts,
        server.http() as http,
    ):
        http.get("/ready").raise_for_status()
        server.server.handle_exit(15, None)
        assert http.get("/ready").status_code == 503
        with pytest.raises(openai.InternalServerError, match="the server ends"):
            server.openai().chat.completions.create(**ASK)
        gate.set()
        last = list(parts)[-1]
        assert last.choices[0].finish_reason in ("stop", "length")
        server.thread.join(limit(30))
        assert not server.thread.is_alive()
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.url}/health")


@pytest.mark.slow
def test_texts_that_are_too_long_for_the_end_say_so(tiny: Served) -> None:
    with running(tiny, Limits(drain_seconds=0)) as server, held(server) as gate, asked(server) as parts:
        server.server.handle_exit(15, None)
        until(
            lambda: server.server.should_exit,
            timeout_seconds=10,
            interval_seconds=0.01,
            failure=lambda: "the time is not over",
        )
        gate.set()
        with pytest.raises(openai.APIError, match="the server ends"):
            list(parts)
        server.thread.join(limit(30))
        assert not server.thread.is_alive()


@pytest.mark.slow
def test_newer_checkpoints_are_taken_without_dropping_a_request(tmp_path: Path) -> None:
    """A request in flight ends with its weights; the next one has the new ones; a damaged checkpoint is not taken."""
    root, other = tmp_path / "root", tmp_path / "other"
    old = imported(write_model(tmp_path / "first"), root)
    new = imported(write_model(tmp_path / "second", scale=2.0), other)
    source = Source(str(root), "tiny")
    source.check_follow()
    with running(source.load(source.newest()), Limits()) as server:
        follower = Follower(source, server.worker, server.metrics, 60.0)
        before = server.openai().chat.completions.create(**ASK)
        with asked(server) as parts:
            assert not follower.look()
            head = decode_head(store_of(root).read(HEAD_KEY).data or b"")
            (other / new.path).rename(root / new.path)
            chunk = next(
                path for path in (root / new.path).rglob("*") if path.is_file() and "manifest" not in path.name.lower()
            )
            whole = chunk.read_bytes()
            chunk.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
            (root / HEAD_KEY).write_bytes(encode_head(head.model_copy(update={"committed": (new, old)})))
            assert not follower.look()  # it is damaged
            chunk.write_bytes(whole)
            assert follower.look()
            after = server.openai().chat.completions.create(**ASK)
            rest = "".join(part.choices[0].delta.content or "" for part in parts)
        assert rest == before.choices[0].message.content
        assert after.choices[0].message.content != rest
        assert after.system_fingerprint != before.system_fingerprint
        server.wait_until_idle()
        until(
            lambda: not server.worker.older,
            timeout_seconds=10,
            interval_seconds=0.02,
            failure=lambda: "the older engine stays",
        )


def test_a_page_has_a_strict_policy_and_only_its_own_files(tmp_path: Path) -> None:
    from starlette.testclient import TestClient

    from halcyon.serving.routes import application

    (tmp_path / "page" / "assets").mkdir(parents=True)
    (tmp_path / "page" / "index.html").write_text("<!doctype html>")
    (tmp_path / "page" / "assets" / "chat.js").write_text("1")
    (tmp_path / "secret").write_text("no")

    class Idle:
        worker, limits, metrics = None, Limits(), Metrics()

    client = TestClient(
        application(Idle(), Keys(()), only_local=True, page=tmp_path / "page"), base_url="http://localhost"
    )  # pyright: ignore[reportArgumentType]
    for path, kind in (("/", "text/html; charset=utf-8"), ("/assets/chat.js", "text/javascript; charset=utf-8")):
        answer = client.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == kind
        assert answer.headers["content-security-policy"].startswith("default-src 'self'; img-src 'self' data:;")
    for path in ("/assets/../../secret", "/assets/%2e%2e/%2e%2e/secret", "/secret", "/assets/"):
        assert client.get(path).status_code == 404
    assert client.get("/", headers={"host": "evil.example"}).status_code == 421
    without = TestClient(application(Idle(), Keys(()), page=tmp_path), base_url="http://localhost")  # pyright: ignore[reportArgumentType]
    assert without.get("/").status_code == 404


def test_only_the_page_is_compressed() -> None:
    from starlette.testclient import TestClient

    from halcyon.serving.routes import PAGE, application

    class Idle:
        worker, limits, metrics = None, Limits(), Metrics()

    client = TestClient(application(Idle(), Keys(())), base_url="http://localhost")  # pyright: ignore[reportArgumentType]
    for path, file in (("/", "index.html"), ("/assets/temml.min.js", "assets/temml.min.js")):
        content = (PAGE / file).read_bytes()
        answer = client.get(path, headers={"accept-encoding": "gzip"})
        assert (answer.headers["content-encoding"], answer.content) == ("gzip", content)
        assert int(answer.headers.get("content-length", answer.num_bytes_downloaded)) < len(content) / 2
        plain = client.get(path, headers={"accept-encoding": "identity"})
        assert ("content-encoding" not in plain.headers, plain.content) == (True, content)
        assert plain.headers["vary"] == answer.headers["vary"] == "Accept-Encoding"
    assert client.head("/").status_code == 200
    assert client.post("/").status_code == 405
    assert "content-encoding" not in client.get("/metrics", headers={"accept-encoding": "gzip"}).headers


@pytest.mark.slow
@pytest.mark.variant
def test_the_command_serves_until_sigterm(tmp_path: Path) -> None:
    import os
    import signal
    import subprocess
    import sys

    from tests.ports import free_port

    port = free_port()
    folder = write_model(tmp_path / "tiny")
    command = [
        sys.executable,
        "-m",
        "halcyon.commands.main",
        "serve",
        f"hf:{folder}",
        "--port",
        str(port),
        "--slots",
        "2",
        "--length",
        "64",
    ]
    with subprocess.Popen(
        command, env=os.environ | {"JAX_PLATFORMS": "cpu"}, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            lines = iter(process.stderr.readline, "")
            assert f"serving tiny at http://127.0.0.1:{port}\n" in lines, "after a line about the compilation"
            answer = httpx.post(
                f"http://127.0.0.1:{port}/v1/completions", json={"prompt": "a", "max_tokens": 2}, timeout=limit(60)
            )
            assert answer.json()["usage"]["completion_tokens"] >= 1
            process.send_signal(signal.SIGTERM)
            assert process.wait(limit(30)) == 0
        finally:
            process.kill()
