"""Random requests never break a server; many clients at once, some of which leave, get the right texts and leave no
page behind.
"""

from __future__ import annotations

import asyncio
import copy
import random
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from tests.suite.limits import limit
from tests.trainer.serving.running import Running

pytestmark = pytest.mark.slow

_TOOL = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}},
}
GOOD: list[tuple[str, dict[str, Any]]] = [
    (
        "/v1/chat/completions",
        {
            "model": "tiny",
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": [{"type": "text", "text": "hi"}]},
            ],
            "max_tokens": 3,
            "temperature": 0.7,
            "top_p": 0.9,
            "top_k": 5,
            "n": 2,
            "seed": 1,
            "stop": ["x", "yy"],
            "logprobs": True,
            "top_logprobs": 2,
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    ),
    (
        "/v1/chat/completions",
        {
            "messages": [
                {"role": "user", "content": "hi"},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
                },
            ],
            "tools": [_TOOL],
            "tool_choice": "auto",
            "max_completion_tokens": 3,
        },
    ),
    (
        "/v1/chat/completions",
        {
            "messages": [{"role": "user", "content": "hi"}],
            "max_tokens": 3,
            "response_format": {
                "type": "json_schema",
                "json_schema": {
                    "name": "x",
                    "schema": {"type": "object", "properties": {"a": {"enum": [1, "b"]}}, "required": ["a"]},
                },
            },
        },
    ),
    (
        "/v1/completions",
        {"model": "tiny", "prompt": ["a", "b"], "max_tokens": 2, "n": 2, "logprobs": 2, "echo": False, "min_p": 0.1},
    ),
    ("/v1/completions", {"prompt": [[1, 2, 3], [4]], "max_tokens": 2, "stream": True, "repetition_penalty": 1.2}),
]
_VALUES: list[Any] = [
    None, True, 0, -1, 1, 2**31, 2**63, -(2**70), 1e308, -0.5, "", "x", "\ud7ff\U0010ffff<|im_end|>", "a" * 3000, [],
    [None], [[]], {},
    {"type": "text"}, {"$ref": "#"}, {"type": "object", "properties": {"a": {"$ref": "#"}}}, {"pattern": "(a+)+$"}, [1,
    "b", {}],
]  # fmt: skip


def mutated(noise: random.Random) -> tuple[str, bytes]:
    """A good request with some changes: values, fields, depth, or bytes."""
    path, document = copy.deepcopy(noise.choice(GOOD))
    for _ in range(noise.choice((0, 1, 1, 1, 2, 4))):
        _change(document, noise)
    data = (
        orjson.dumps(document, option=orjson.OPT_NON_STR_KEYS, default=str)
        if _fits(document)
        else str(document).encode()
    )
    if noise.random() < 0.15:
        at = noise.randrange(len(data) + 1)
        data = data[:at] + noise.randbytes(noise.randrange(4)) + data[at + noise.randrange(8) :]
    if noise.random() < 0.02:
        data = b'{"messages":' + b"[" * noise.choice((50, 2000)) + b"]" * 50
    return path, data


def _fits(document: Any) -> bool:
    try:
        orjson.dumps(document)
    except TypeError:
        return False
    return True


def _change(value: Any, noise: random.Random) -> None:
    """Change one place inside of an object or a list."""
    while isinstance(value, dict | list) and value:
        key = noise.choice(list(value)) if isinstance(value, dict) else noise.randrange(len(value))
        if isinstance(value[key], dict | list) and value[key] and noise.random() < 0.7:
            value = value[key]
            continue
        match noise.randrange(4):
            case 0 if isinstance(value, dict):
                value[noise.choice(("model", "messages", "prompt", "n", "seed", "stop", "x"))] = noise.choice(_VALUES)
            case 1 if isinstance(value, dict):
                del value[key]
            case _:
                value[key] = copy.deepcopy(noise.choice(_VALUES))
        return


async def _fuzz(server: Running, count: int) -> dict[int, int]:
    noise, statuses = random.Random(7), dict[int, int]()
    room = asyncio.Semaphore(16)
    async with httpx.AsyncClient(base_url=server.url, timeout=limit(120)) as client:

        async def send(path: str, data: bytes) -> None:
            async with room:
                answer = await client.post(path, content=data, headers={"content-type": "application/json"})
            statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
            assert answer.status_code < 500, data
            if answer.status_code != 200:
                assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
            elif answer.headers["content-type"].startswith("text/event-stream"):
                assert answer.text.endswith("data: [DONE]\n\n"), (data, answer.text[-300:])

        for _ in range(0, count, 100):
            await asyncio.gather(*(send(*mutated(noise)) for _ in range(100)))
    return statuses


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.variant)])
def test_random_requests_never_give_a_fault(server: Running, count: int) -> None:
    statuses = asyncio.run(_fuzz(server, count))
    server.wait_until_idle()
    assert not server.worker.fault
    assert server.metrics.registry.get_sample_value("halcyon_serving_engine_failures_total") == 0
    assert statuses[200] > count // 10  # some mutations leave a request valid
    assert statuses[400] > count // 10


def _question(number: int) -> dict[str, Any]:
    """One of forty requests; several share a beginning of their prompt."""
    number %= 40
    content = ("the same beginning of a prompt, " * 3 if number % 2 else "") + str(number)
    return {
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 4 + number // 2,
        "seed": number,
        "temperature": (0, 0.8, 1.5)[number % 3],
    }


async def _crowd(server: Running, count: int) -> int:
    noise, _whole = random.Random(3), 0
    connections = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=server.url, timeout=limit(240), limits=connections) as client:

        async def text(number: int) -> str:
            answer = await client.post("/v1/chat/completions", json=_question(number))
            assert answer.status_code == 200, answer.text
            return answer.json()["choices"][0]["message"]["content"]

        async def streamed(number: int, leave_after: int | None) -> str | None:
            shown = ""
            async with client.stream(
                "POST", "/v1/chat/completions", json=_question(number) | {"stream": True}
            ) as answer:
                assert answer.status_code == 200
                events = 0
                async for line in answer.aiter_lines():
                    if line.startswith("data: {"):
                        events += 1
                        shown += orjson.loads(line[6:])["choices"][0]["delta"].get("content") or ""
                    if leave_after is not None and events > leave_after:
                        return None
            return shown

        async def cancelled(number: int, seconds: float) -> None:
            task = asyncio.ensure_future(text(number))
            await asyncio.sleep(seconds)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        alone = {number: await text(number) for number in range(min(40, count))}

        async def one(number: int) -> int:
            match noise.randrange(5):
                case 0:
                    await cancelled(number, noise.random() * 0.5)
                    return 0
                case 1:
                    await streamed(number, noise.randrange(4))
                    return 0
                case 2:
                    assert await text(number) == alone[number % 40]
                case _:
                    assert await streamed(number, None) == alone[number % 40]
            return 1

        return sum(await asyncio.gather(*(one(number) for number in range(count))))


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.variant)])
def test_many_clients_at_once_get_the_texts_that_they_get_alone(server: Running, count: int) -> None:
    before = _resident_bytes()
    whole = asyncio.run(_crowd(server, count))
    assert whole > count // 4
    server.wait_until_idle()  # every page is free
    assert _resident_bytes() - before < 300e6
