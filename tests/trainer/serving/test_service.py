"""Threads that prepare requests: a call that does not end is seen, and holds neither other requests nor the end of the
process.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from halcyon.serving.errors import ApiError
from halcyon.serving.limits import Limits
from halcyon.serving.served import Served
from halcyon.serving.service import STUCK_SECONDS, Preparers
from halcyon_devcluster.waiting import holds_within, until
from tests.ports import free_port
from tests.suite.limits import limit
from tests.trainer.serving.running import running, write_model

ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
COSTLY = {"type": "integer", "multipleOf": 10000019}


def of_schema(schema: dict[str, Any]) -> dict[str, Any]:
    return ASK | {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


def test_a_call_that_does_not_end_is_a_fault_and_waiting_calls_are_bounded() -> None:
    now, gate, began = [0.0], threading.Event(), threading.Event()

    def stuck() -> str:
        began.set()
        gate.wait(limit(60))
        return "late"

    preparers = Preparers("test", 1, 1, clock=lambda: now[0])

    async def scenario() -> None:
        first = asyncio.ensure_future(preparers.run(stuck))
        await asyncio.to_thread(began.wait, limit(60))
        now[0] = STUCK_SECONDS
        assert not preparers.fault
        now[0] = STUCK_SECONDS + 1
        assert preparers.fault == "a request has been prepared for 31 seconds"
        second = asyncio.ensure_future(preparers.run(lambda: "second"))
        await asyncio.sleep(0)
        with pytest.raises(ApiError) as refused:
            await preparers.run(lambda: "third")
        assert refused.value.status == 429
        second.cancel()  # its client is gone
        gate.set()
        assert await first == "late"
        emptied = await asyncio.to_thread(holds_within, lambda: not preparers._queue.qsize(), 60)
        assert emptied, "the call of the client that is gone leaves the queue"
        assert await preparers.run(lambda: "fourth") == "fourth"
        with pytest.raises(ZeroDivisionError):
            await preparers.run(lambda: 1 // 0)
        assert not preparers.fault

    asyncio.run(scenario())
    preparers.close()
    assert preparers.join(limit(30))
    with pytest.raises(ApiError, match="the server ends"):
        asyncio.run(preparers.run(lambda: "fifth"))


@pytest.mark.slow
def test_costly_schemas_are_refused_while_other_requests_are_answered(
    tiny: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, both = threading.Event(), threading.Barrier(3)
    real = tiny.grammars.of_schema

    def waiting(schema: dict[str, Any], count: int = 1) -> Any:
        if schema == COSTLY and not gate.is_set():
            both.wait(limit(60))
            gate.wait(limit(60))
        return real(schema, count)

    monkeypatch.setattr(tiny.grammars, "of_schema", waiting)
    with running(tiny, Limits()) as server, server.http() as http, ThreadPoolExecutor(10) as pool:

        def post(document: dict[str, Any]) -> httpx.Response:
            return http.post("/v1/chat/completions", json=document)

        held = [pool.submit(post, of_schema(COSTLY)) for _ in range(2)]
        both.wait(limit(60))  # both threads for schemas have one
        assert post(ASK).status_code == 200
        until(  # an answered request may count for a moment longer
            lambda: server.worker.accepted == 2,
            timeout_seconds=30,
            interval_seconds=0.01,
            failure=lambda: "the answered request still counts",
        )
        more: list[Future[httpx.Response]] = [pool.submit(post, of_schema({"const": number})) for number in range(8)]
        until(
            lambda: server.service._compilers._queue.qsize() == 8,  # a request is accepted before it waits for a thread
            timeout_seconds=30,
            interval_seconds=0.01,
            failure=lambda: "the requests do not wait",
        )
        assert post(of_schema({"const": 9})).status_code == 429
        assert http.get("/ready").status_code == 200
        gate.set()
        for one in held:
            answer = one.result()
            assert answer.status_code == 400
            sentence = answer.json()["error"]["message"]
            assert sentence.startswith("response_format: the JSON schema cannot be used: it takes more than 2 seconds")
            assert "\n" not in sentence
        assert {one.result().status_code for one in more} == {200}
        server.wait_until_idle()
    until(
        lambda: not tiny.grammars.memory.taken_bytes,
        timeout_seconds=30,
        interval_seconds=0.01,
        failure=lambda: "grammars are kept",
    )


@pytest.mark.slow
@pytest.mark.variant
def test_the_process_ends_although_a_request_is_never_prepared(tmp_path: Path) -> None:
    port, folder = free_port(), write_model(tmp_path / "tiny")
    program = (
        "import sys, time, halcyon.serving.service as service\n"
        "def prepare(*_):\n    print('stuck', file=sys.stderr, flush=True)\n    time.sleep(3600)\n"
        "service.prepare, service._END_SECONDS = prepare, 0.1\n"
        "from halcyon.commands.main import app\napp()\n"
    )
    command = [
        sys.executable,
        "-c",
        program,
        "serve",
        f"hf:{folder}",
        "--port",
        str(port),
        "--slots",
        "1",
        "--length",
        "64",
    ]
    command += ["--drain-seconds", "0"]
    with subprocess.Popen(
        command, env=os.environ | {"JAX_PLATFORMS": "cpu"}, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            lines = iter(process.stderr.readline, "")
            assert f"serving tiny at http://127.0.0.1:{port}\n" in lines, "after a line about the compilation"
            thread = threading.Thread(target=lambda: _post(port), daemon=True)
            thread.start()
            assert "stuck\n" in lines
            process.send_signal(signal.SIGTERM)
            assert process.wait(limit(30)) == 0
            assert "a request that is being prepared does not end" in "".join(lines)
            thread.join(limit(30))
        finally:
            process.kill()


def _post(port: int) -> None:
    try:
        httpx.post(f"http://127.0.0.1:{port}/v1/completions", json={"prompt": "a"}, timeout=limit(60))
    except httpx.HTTPError:
        return  # the server has ended
