"""Reads the body of a request, within its limits, and its JSON."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import orjson
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest

from halcyon.serving.errors import ApiError, invalid, overloaded
from halcyon.serving.limits import Limits

_RETRY_SECONDS = 5
_SMALL_BYTES = 65_536
"""A body of this size is read although others take all memory, so that a few large ones cannot keep all clients out."""


class Bodies:
    """Counts the bytes of the bodies that clients are sending.

    Args:
        most_bytes: Most of them; see `Limits.all_bodies_bytes`.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes, self._bytes = most_bytes, 0

    @contextlib.contextmanager
    def reading(self) -> Iterator[Callable[[int], None]]:
        """A function that counts further bytes of one body; at the end of the block they are given back.

        Raises:
            ApiError: From that function: there is no room.
        """
        size = 0

        def count(further: int) -> None:
            nonlocal size
            size += further
            self._bytes += further
            if size > _SMALL_BYTES and self._bytes > self._most_bytes:
                raise overloaded(_RETRY_SECONDS)

        try:
            yield count
        finally:
            self._bytes -= size


async def read_json(request: HttpRequest, limits: Limits, bodies: Bodies) -> dict[str, Any]:
    """The object in the body of a request.

    Raises:
        ApiError: It is too large, too slow, or no JSON object, or the server reads too many others.
        ClientDisconnect: The client is gone.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # a page of another site may send other types without asking
        raise ApiError(
            415, "the body must be JSON with the header 'Content-Type: application/json'", code="unsupported_media_type"
        )
    try:
        with bodies.reading() as count:
            async with asyncio.timeout(limits.body_seconds):
                data = await _read(request, limits.body_bytes, count)
    except TimeoutError:
        raise ApiError(408, f"the body did not come within {limits.body_seconds:g} seconds", code="timeout") from None
    try:
        found: Any = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise invalid(
            f"the body is not JSON: {str(error).partition(':')[0]} (line {error.lineno}, column {error.colno})"
        ) from None
    if not isinstance(found, dict):
        raise invalid("the body must be a JSON object")
    return found


async def _read(request: HttpRequest, most: int, count: Callable[[int], None]) -> bytes:
    data = bytearray()
    async for part in request.stream():
        count(len(part))
        data += part
        if len(data) > most:
            raise ApiError(413, f"the body has at most {most} bytes", code="request_too_large")
    return bytes(data)


__all__ = ["ClientDisconnect", "read_json"]
