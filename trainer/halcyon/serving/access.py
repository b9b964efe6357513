"""Who may use a server, and how much it may send: API keys, the names that a browser may use for a server on this
machine, and the bodies of requests.
"""

import asyncio
import contextlib
import hashlib
import hmac
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request as HttpRequest

from halcyon.host.errors import BadConfiguration
from halcyon.host.local_names import is_own_host
from halcyon.serving.errors import ApiError, invalid, overloaded
from halcyon.serving.limits import Limits
from halcyon_api.plain_files import read_text

KEY_VARIABLE = "HALCYON_API_KEY"
"""The environment variable with a key."""
_LONGEST_KEY = 512
_SHORTEST_KEY = 16
_RETRY_SECONDS = 5
_MOST_FIELDS = 16
_SMALL_BYTES = 65_536
"""A body of this size is read although others take all memory, so that a few large ones cannot keep all clients out."""


class Keys:
    """The keys of a server. Only their hashes are kept, so that no log or dump of this object shows a key.

    Args:
        keys: The keys. None at all: every client may use the server.

    Raises:
        BadConfiguration: A key is too short or too long, or has a space or another sign that a header cannot carry.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests: list[bytes] = []
        for number, key in enumerate(keys, 1):
            if not _SHORTEST_KEY <= len(key) <= _LONGEST_KEY or not all("!" <= sign <= "~" for sign in key):
                raise BadConfiguration(
                    f"API key {number}: a key has {_SHORTEST_KEY} to {_LONGEST_KEY} visible ASCII characters without "
                    "spaces; make one with `openssl rand -hex 32`"
                )
            self._digests.append(hashlib.sha256(key.encode()).digest())

    def __bool__(self) -> bool:
        return bool(self._digests)

    def check(self, authorization: str) -> bytes:
        """Compare the header ``Authorization`` with every key, in a time that does not depend on the keys.

        Returns:
            The hash of the client's key; empty if there are no keys.

        Raises:
            ApiError: There are keys, and the header has none of them.
        """
        if not self._digests:
            return b""
        scheme, _, given = authorization.partition(" ")
        digest = hashlib.sha256(given.strip().encode(errors="replace")).digest()
        matches = [hmac.compare_digest(digest, key) for key in self._digests]
        if scheme.lower() != "bearer" or not any(matches):
            raise ApiError(
                401,
                "the header Authorization has no key of this server; send 'Authorization: Bearer KEY'",
                code="invalid_api_key",
            )
        return digest


def read_keys(file: Path | None, environment: Mapping[str, str]) -> Keys:
    """The keys of a file, one a line, and the key of the environment variable.

    Args:
        file: A file; empty lines and lines that begin with # do not count.
        environment: The environment variables.

    Raises:
        BadConfiguration: The file has no key, or a key is not valid.
    """
    keys = [environment[KEY_VARIABLE]] if environment.get(KEY_VARIABLE) else []
    if file is not None:
        try:
            lines = [line.strip() for line in read_text(file).splitlines()]
        except UnicodeDecodeError:
            raise BadConfiguration(f"--api-key-file: {file} is no text in UTF-8") from None
        in_file = [line for line in lines if line and not line.startswith("#")]
        if not in_file:
            raise BadConfiguration(f"--api-key-file: {file} has no key; write one a line")
        keys += in_file
    return Keys(keys)


def check_host(header: str) -> None:
    """Check the header ``Host`` of a request to a server without keys on this machine's own address; see
    `halcyon.host.local_names`.

    Raises:
        ApiError: It is no name of this machine.
    """
    if not is_own_host(header):
        raise ApiError(
            421, "this server answers only to localhost; use that name, or start it with an API key", code="wrong_host"
        )


class Bodies:
    """Counts the bytes of the bodies that clients are sending.

    Args:
        limits: The limits of the server.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits, self._bytes = limits, 0

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
            if size > _SMALL_BYTES and self._bytes > self.limits.all_bodies_bytes:
                raise overloaded(_RETRY_SECONDS)

        try:
            yield count
        finally:
            self._bytes -= size


async def read_json(request: HttpRequest, bodies: Bodies, *, with_images: bool = False) -> dict[str, Any]:
    """The object in the body of a request.

    Raises:
        ApiError: It is too large, too slow, or no JSON object, or the server reads too many others.
        ClientDisconnect: The client is gone.
    """
    most = bodies.limits.form_bytes if with_images else bodies.limits.body_bytes
    data = await _body(request, "application/json", "JSON", most, bodies)
    try:
        document: Any = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise invalid(
            f"the body is not JSON: {str(error).partition(':')[0]} (line {error.lineno}, column {error.colno})"
        ) from None
    if not isinstance(document, dict):
        raise invalid("the body must be a JSON object")
    return document


async def read_form(request: HttpRequest, bodies: Bodies) -> dict[str, str | bytes]:
    """The fields of a form in the body of a request; a file is its bytes.

    Raises:
        ApiError: As for `read_json`; or a page of another site sends it.
        ClientDisconnect: The client is gone.
    """
    if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):  # a form needs no permission
        raise ApiError(403, "a page of another site cannot use this server", code="wrong_site")
    data = await _body(request, "multipart/form-data", "a form", bodies.limits.form_bytes, bodies)

    async def parts() -> AsyncGenerator[bytes]:
        yield data

    try:
        form = await MultiPartParser(request.headers, parts(), max_files=1, max_fields=_MOST_FIELDS).parse()
    except MultiPartException as error:
        raise invalid(f"the body is no form: {error.message}") from None
    async with contextlib.AsyncExitStack() as files:
        files.push_async_callback(form.close)
        return {name: value if isinstance(value, str) else await value.read() for name, value in form.items()}


async def _body(request: HttpRequest, kind: str, what: str, most: int, bodies: Bodies) -> bytes:
    """The bytes of a body of a media type."""
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != kind:  # a page of another site may send other types without asking
        raise ApiError(
            415, f"the body must be {what} with the header 'Content-Type: {kind}'", code="unsupported_media_type"
        )
    data, seconds = bytearray(), bodies.limits.body_seconds
    try:
        with bodies.reading() as count:
            async with asyncio.timeout(seconds):
                async for part in request.stream():
                    count(len(part))
                    data += part
                    if len(data) > most:
                        raise ApiError(413, f"the body has at most {most} bytes", code="request_too_large")
    except TimeoutError:
        raise ApiError(408, f"the body did not come within {seconds:g} seconds", code="timeout") from None
    return bytes(data)
