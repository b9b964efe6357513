"""Who may use a server: API keys, and the names that a browser may use for a server on this machine."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from pathlib import Path

from halcyon.errors import BadConfiguration
from halcyon.host.local_names import is_own_host
from halcyon.serving.errors import ApiError
from halcyon_api.plain_files import read_text

KEY_VARIABLE = "HALCYON_API_KEY"
"""The environment variable with a key."""
_LONGEST_KEY = 512
_SHORTEST_KEY = 16


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
                    "spaces; make one with "
                    "`openssl rand -hex 32`"
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
        found = [hmac.compare_digest(digest, key) for key in self._digests]
        if scheme.lower() != "bearer" or not any(found):
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
        found = [line for line in lines if line and not line.startswith("#")]
        if not found:
            raise BadConfiguration(f"--api-key-file: {file} has no key; write one a line")
        keys += found
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
