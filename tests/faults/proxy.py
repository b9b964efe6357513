"""A proxy in front of a real S3 gateway that makes the faults of real stores.

It runs in a thread of the test. A function of the test chooses the fault of each request; requests without a fault are
forwarded byte for byte, with the client's own Host header, because the signature covers it.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import unquote

import aiohttp
from aiohttp import web
from yarl import URL

from halcyon_devcluster.waiting import until
from tests.suite.limits import limit

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date"}
_CONTENTS = re.compile(r"<Contents>.*?</Contents>", re.DOTALL)
_KEY = re.compile(r"<Key>(.*?)</Key>", re.DOTALL)


@dataclass(frozen=True)
class Request:
    """The properties of a request that the test's function decides by."""

    number: int
    """Number of this request since the start of the proxy, from 0."""
    method: str
    key: str
    """Key below the bucket; empty for a listing."""
    conditional: bool
    """Whether it is a conditional write."""


@dataclass(frozen=True)
class Pass:
    """No fault."""


@dataclass(frozen=True)
class Refuse:
    """Close the connection without an answer; the store does not get the request."""


@dataclass(frozen=True)
class Status:
    """Answer with an error of the store."""

    code: int
    name: str


@dataclass(frozen=True)
class Lose:
    """Forward the request, and close the connection instead of answering."""


@dataclass(frozen=True)
class Stall:
    """Forward the request when the event is set, which may be long after the client gave up."""

    until: threading.Event


@dataclass(frozen=True)
class Hide:
    """Remove keys from a listing."""

    hidden: Callable[[str], bool]


Fault = Pass | Refuse | Status | Lose | Stall | Hide
PASS, REFUSE, LOSE = Pass(), Refuse(), Lose()
SLOW_DOWN, TOO_MANY, QUOTA = Status(503, "SlowDown"), Status(429, "TooManyRequests"), Status(403, "QuotaExceeded")


@dataclass
class Proxy:
    """The running proxy."""

    target: str
    decide: Callable[[Request], Fault] = lambda request: PASS
    """Chooses the fault of a request; a test sets it."""
    port: int = 0
    served: list[tuple[Request, int]] = field(default_factory=list)
    """Requests that the store answered, with the HTTP status."""
    _count: int = 0
    _answered: int = 0

    @property
    def endpoint(self) -> str:
        """The value of ``spec.checkpoint.endpoint``."""
        return f"http://127.0.0.1:{self.port}"

    def stored(self, key: str) -> int:
        """Number of successful writes of a key."""
        return sum(
            request.method == "PUT" and request.key.endswith(key) and code == 200 for request, code in self.served
        )

    def wait_until_idle(self) -> None:
        """Wait until no request is on its way to the store; the client may have ended before."""
        until(
            lambda: self._answered == self._count,
            timeout_seconds=limit(20),
            interval_seconds=0.02,
            failure=lambda: "requests are still on their way to the store",
        )

    async def handle(self, incoming: web.Request) -> web.StreamResponse:
        """Answer a request, with its fault."""
        number = self._count
        self._count += 1
        try:
            return await self._answer(incoming, number)
        finally:
            self._answered += 1

    async def _answer(self, incoming: web.Request, number: int) -> web.StreamResponse:
        path = unquote(incoming.rel_url.raw_path).lstrip("/")
        key = path.partition("/")[2]
        conditional = "If-Match" in incoming.headers or "If-None-Match" in incoming.headers
        request = Request(number, incoming.method, key, incoming.method == "PUT" and conditional)
        body = await incoming.read()
        fault = self.decide(request)
        match fault:
            case Refuse():
                return _hang_up(incoming)
            case Status(code, name):
                text = (
                    f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{name}</Code><Message>made by the '
                    "test</Message></Error>"
                )
                return web.Response(status=code, text=text, content_type="application/xml")
            case Stall(until):
                while not until.is_set():
                    await asyncio.sleep(0.02)
        response = await self._pass_on(incoming, request, body)
        match fault:
            case Lose():
                return _hang_up(incoming)
            case Hide(hidden) if not request.key and response.body:
                return _without(response, hidden)
        return response

    async def _pass_on(self, incoming: web.Request, request: Request, body: bytes) -> web.Response:
        url = URL(f"{self.target}{incoming.rel_url.raw_path_qs}", encoded=True)
        headers = {name: value for name, value in incoming.headers.items() if name.lower() not in _HOP_BY_HOP}
        async with (
            aiohttp.ClientSession(
                auto_decompress=False, skip_auto_headers={"User-Agent", "Content-Type", "Accept"}
            ) as session,
            session.request(incoming.method, url, headers=headers, data=body or None, allow_redirects=False) as answer,
        ):
            content = await answer.read()
            self.served.append((request, answer.status))
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP_BY_HOP}
            if incoming.method == "HEAD" and "Content-Length" in answer.headers:
                kept["Content-Length"] = answer.headers["Content-Length"]
            return web.Response(status=answer.status, body=content or None, headers=kept)


def _hang_up(incoming: web.Request) -> web.Response:
    if incoming.transport is not None:
        incoming.transport.abort()
    return web.Response()


def _without(response: web.Response, hidden: Callable[[str], bool]) -> web.Response:
    assert isinstance(response.body, bytes)

    def keep(match: re.Match[str]) -> str:
        found = _KEY.search(match[0])
        return "" if found and hidden(found[1]) else match[0]

    return web.Response(
        status=response.status,
        body=_CONTENTS.sub(keep, response.body.decode()).encode(),
        content_type="application/xml",
    )


@contextmanager
def proxied(target: str) -> Iterator[Proxy]:
    """A proxy on a free port, in front of `target`, until the end of the block."""
    proxy = Proxy(target)
    loop = asyncio.new_event_loop()
    ready, over = threading.Event(), asyncio.Event()

    async def serve() -> None:
        runner = web.ServerRunner(web.Server(proxy.handle), shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        proxy.port = runner.addresses[0][1]
        ready.set()
        await over.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), name="proxy")
    thread.start()
    try:
        assert ready.wait(limit(30)), "the proxy does not start"
        yield proxy
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()
