"""Reads the body of a request, within its limits, and its JSON."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from starlette.requests import ClientDisconnect, Request

from halcyon.serving.errors import ApiError, invalid
from halcyon.serving.limits import Limits


async def read_json(request: Request, limits: Limits) -> dict[str, Any]:
    """The object in the body of a request.

    Raises:
        ApiError: It is too large, too slow, or no JSON object.
        ClientDisconnect: The client is gone.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # a page of another site may send other types without asking
        raise ApiError(415, "the body must be JSON with the header 'Content-Type: application/json'", code="unsupported_media_type")
    try:
        async with asyncio.timeout(limits.body_seconds):
            data = await _read(request, limits.body_bytes)
    except TimeoutError:
        raise ApiError(408, f"the body did not come within {limits.body_seconds:g} seconds", code="timeout") from None
    try:
        found: Any = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise invalid(f"the body is not JSON: {str(error).partition(':')[0]} (line {error.lineno}, column {error.colno})") from None
    if not isinstance(found, dict):
        raise invalid("the body must be a JSON object")
    return found


async def _read(request: Request, most: int) -> bytes:
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > most:
            raise ApiError(413, f"the body has at most {most} bytes", code="request_too_large")
    return bytes(data)


__all__ = ["ClientDisconnect", "read_json"]
