"""The HTTP interface, as an ASGI application."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from halcyon.serving.access import Bodies, Keys, check_host, read_form, read_json
from halcyon.serving.batch import Batch
from halcyon.serving.embeddings import EmbeddingRequest
from halcyon.serving.errors import ApiError, check_model, failed, invalid, shown
from halcyon.serving.requests import ChatRequest, Request, TextRequest, parsed
from halcyon.serving.responses import ResponsesRequest
from halcyon.serving.service import Service, outcome_of
from halcyon.serving.transcriptions import TranscriptionRequest

PAGE = Path(__file__).parent / "page"
"""The folder of the chat page, if it is installed."""
_GONE = 499
"""The status of an answer that nobody reads."""
PAGE_HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; object-src 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}

Result = TypeVar("Result")


class _ClientGone(Exception):
    """The client has closed its connection."""


async def _watched(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`, which ends at once when the client goes away.

    Raises:
        _ClientGone: The client went away first.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise _ClientGone
    finally:
        for pending in (task, gone):
            pending.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class _Json(Response):
    """A JSON document."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content)


class _Stream(Response):
    """Server-sent events of the texts of a request."""

    def __init__(self, service: Service, batch: Batch) -> None:
        super().__init__(
            b"", headers={"cache-control": "no-store", "x-accel-buffering": "no"}, media_type="text/event-stream"
        )
        self._service, self._batch = service, batch
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await _watched(receive, self._write(self._service.events(self._batch), send))
        except (_ClientGone, OSError, TimeoutError):
            return  # nobody reads
        finally:
            self._service.end(self._batch)

    async def _write(self, events: AsyncIterator[bytes], send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for event in events:
            async with asyncio.timeout(self._service.limits.stall_seconds):
                await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def application(service: Service, keys: Keys, *, only_local: bool = False, page: Path = PAGE) -> ASGIApp:
    """The application.

    Args:
        service: Answers requests.
        keys: The API keys.
        only_local: Whether the server is for this machine alone; see `check_host`.
        page: The folder of the chat page. The page is served if it exists.
    """
    worker, metrics = service.worker, service.metrics
    bodies = Bodies(service.limits)

    def checked(http: HttpRequest) -> bytes:
        return keys.check(http.headers.get("authorization", ""))

    def counted(path: str, endpoint: str, answer: Callable[[HttpRequest], Awaitable[Response]]) -> Route:
        async def answer_and_count(http: HttpRequest) -> Response:
            try:
                return await answer(http)
            except ApiError as error:
                if not error.is_counted:
                    metrics.requests.labels(endpoint, outcome_of(error)).inc()
                return _refusal(error)
            except (ClientDisconnect, _ClientGone):
                metrics.requests.labels(endpoint, "cancelled").inc()
                return Response(status_code=_GONE)

        return Route(path, answer_and_count, methods=["POST"])

    def ask(kind: type[Request | ResponsesRequest]) -> Callable[[HttpRequest], Awaitable[Response]]:
        async def answer(http: HttpRequest) -> Response:
            salt = checked(http)
            sees = worker.served.model.sight is not None
            given = parsed(kind, await read_json(http, bodies, with_images=sees))
            request = given.chat() if isinstance(given, ResponsesRequest) else given
            batch = await _watched(http.receive, service.begin(request, salt))
            if request.stream:
                return _Stream(service, batch)
            try:
                return _Json(await _watched(http.receive, service.whole(batch)))
            except _ClientGone:
                return Response(status_code=_GONE)
            finally:
                service.end(batch)

        return answer

    async def embeddings(http: HttpRequest) -> Response:
        checked(http)
        request = parsed(EmbeddingRequest, await read_json(http, bodies))
        return _Json(await _watched(http.receive, service.embed(request)))

    async def transcriptions(http: HttpRequest) -> Response:
        checked(http)
        request = parsed(TranscriptionRequest, await read_form(http, bodies))
        answer = await _watched(http.receive, service.transcribe(request))
        return Response(answer, media_type="text/plain") if isinstance(answer, str) else _Json(answer)

    def model() -> dict[str, Any]:
        served = worker.served
        return {
            "id": served.name,
            "object": "model",
            "created": int(served.loaded),
            "owned_by": "halcyon",
            "max_model_len": worker.length,
            "max_images": 0 if served.model.sight is None else served.model.sight.images,
            "system_fingerprint": served.fingerprint,
        }

    async def models(http: HttpRequest) -> Response:
        checked(http)
        name = http.path_params.get("name")
        check_model(name, worker.served.name)
        return _Json({"object": "list", "data": [model()]} if name is None else model())

    async def health(_: HttpRequest) -> Response:
        return _probed(worker.fault, "the engine computes")

    async def ready(_: HttpRequest) -> Response:
        return _probed(service.fault or ("the server ends" if worker.is_draining else ""), "ready for requests")

    async def exposition(_: HttpRequest) -> Response:
        data, content_type = metrics.exposition()
        return Response(data, headers={"content-type": content_type})

    routes = [
        counted("/v1/chat/completions", "chat", ask(ChatRequest)),
        counted("/v1/completions", "completions", ask(TextRequest)),
        counted("/v1/responses", "responses", ask(ResponsesRequest)),
        counted("/v1/embeddings", "embeddings", embeddings),
        counted("/v1/audio/transcriptions", "transcriptions", transcriptions),
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", models),
        Route("/health", health),
        Route("/ready", ready),
        Route("/metrics", exposition),
        *_page_routes(page),
    ]
    handlers: Any = dict.fromkeys((ApiError, HTTPException, Exception), _answer_error)
    return _Outer(Starlette(routes=routes, exception_handlers=handlers), only_local)


class _Outer:
    """Checks the host and the length of each request, closes the connection after one that was not read, and adds the
    page's headers.
    """

    def __init__(self, inner: ASGIApp, only_local: bool) -> None:
        self._inner, self._only_local = inner, only_local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = dict(scope["headers"])
        length = headers.get(b"content-length")
        is_read = b"transfer-encoding" not in headers and not (length or b"").strip(b"0")
        is_page = scope["path"] == "/" or scope["path"].startswith("/assets/")

        async def reading() -> Message:
            nonlocal is_read
            message = await receive()
            is_read = is_read or (message["type"] == "http.request" and not message.get("more_body", False))
            return message

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = PAGE_HEADERS if is_page else {}
                if not is_read:  # a client cannot make the server take what nobody reads
                    added = added | {"connection": "close"}
                lines = [(name.encode(), value.encode()) for name, value in added.items()]
                message = {**message, "headers": [*message.get("headers", ()), *lines]}
            await send(message)

        try:
            if b"transfer-encoding" in headers and length is not None:  # a proxy may take the other one of the two
                raise invalid("the request has the headers Transfer-Encoding and Content-Length; send one of them")
            if self._only_local:
                check_host(headers.get(b"host", b"").decode("latin-1"))
        except ApiError as error:
            await _refusal(error)(scope, reading, sending)
            return
        await self._inner(scope, reading, sending)


def _page_routes(page: Path) -> list[Any]:
    if not (page / "index.html").is_file():
        return []
    text = (page / "index.html").read_bytes()

    async def index(_: HttpRequest) -> Response:
        return Response(text, media_type="text/html")

    assets = page / "assets"
    # Only these routes: a stream of tokens must not wait for the compressor.
    compressed = [Middleware(GZipMiddleware, compresslevel=6)]
    routes: list[Any] = [Route("/", index, middleware=compressed)]
    if assets.is_dir():
        routes.append(Mount("/assets", StaticFiles(directory=assets), middleware=compressed))
    return routes


def _refusal(error: ApiError) -> Response:
    return _Json(error.document, status_code=error.status, headers=error.headers)


async def _answer_error(http: HttpRequest, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        status, path = error.status_code, shown(http.url.path)
        error = ApiError(status, f"there is no {path}", code="not_found")
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            error = ApiError(status, f"{path} does not take {shown(http.method)}", code="method_not_allowed")
    return _refusal(error if isinstance(error, ApiError) else failed())  # the server writes a fault to its log


def _probed(fault: str, well: str) -> Response:
    """The answer to a probe: why the server does not work, or that it does."""
    status = HTTPStatus.SERVICE_UNAVAILABLE if fault else HTTPStatus.OK
    return Response(f"{fault or well}\n", status_code=status, media_type="text/plain")
