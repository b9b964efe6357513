"""4,096 idle connections beside 32 streams: no stream is disturbed, probes are answered, and memory is bounded."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from halcyon.serving.connections import openable
from halcyon.serving.limits import Limits
from halcyon.serving.served import Served
from tests.suite.limits import limit
from tests.trainer.serving.running import Running, running

IDLE, STREAMS = 4096, 32
_MOST_BYTES = 200e6
_STARTS = (
    b"",
    b"POST /v1/chat/comp",
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n",
)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def _streams(server: Running, probes: list[int]) -> list[str]:
    """The texts of all streams, while probes come from further connections."""
    connections = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=server.url, timeout=limit(240), limits=connections) as client:

        async def text(number: int) -> str:
            question: dict[str, Any] = {
                "messages": [{"role": "user", "content": str(number)}],
                "max_tokens": 100,
                "seed": number,
            }
            shown = end = ""
            async with client.stream("POST", "/v1/chat/completions", json=question | {"stream": True}) as answer:
                assert answer.status_code == 200
                async for line in answer.aiter_lines():
                    if line.startswith("data: {"):
                        shown += orjson.loads(line[6:])["choices"][0]["delta"].get("content") or ""
                    end = line or end
            assert end == "data: [DONE]"
            return shown

        async def probing() -> None:
            while True:
                answers = await client.get("/health"), await client.get("/ready")
                probes.extend(answer.status_code for answer in answers)
                await asyncio.sleep(0)

        task = asyncio.ensure_future(probing())
        try:
            return await asyncio.gather(*(text(number) for number in range(STREAMS)))
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.mark.slow
@pytest.mark.variant
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "all_of_one_address", [False, True], ids=["with the defaults", "without a limit of an address"]
)
def test_idle_connections_disturb_no_stream(tiny: Served, all_of_one_address: bool, record_property: Any) -> None:
    if openable(2 * IDLE + 200) < 2 * IDLE + 200:
        pytest.skip("this process cannot open as many files")
    limits = Limits(
        header_seconds=600, body_seconds=600, **({"connections_per_address": 2 * IDLE} if all_of_one_address else {})
    )
    with running(tiny, limits) as server, ExitStack() as stack:
        probes: list[int] = []
        alone = asyncio.run(_streams(server, probes))
        before = _resident_bytes()
        host, port = server.url.removeprefix("http://").split(":")
        for number in range(IDLE):
            client = stack.enter_context(socket.create_connection((host, int(port)), timeout=limit(60)))
            client.sendall(_STARTS[number % len(_STARTS)])
        probes = []
        beside = asyncio.run(_streams(server, probes))
        grown = _resident_bytes() - before
        open_now = len(server.server.server_state.connections)
        print(f"\n{IDLE} idle, {open_now} open, {STREAMS} streams, {len(probes)} probes, {grown / 1e6:.1f} MB")
        record_property("grown_bytes", grown)
        assert beside == alone
        assert probes
        assert set(probes) == {200}
        assert open_now <= (IDLE if all_of_one_address else limits.connections_per_address) + 8
        assert grown < _MOST_BYTES
