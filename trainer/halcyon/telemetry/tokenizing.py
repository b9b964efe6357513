"""How far the text of a run is tokenized, as this process does it: reported often, logged at intervals."""

from __future__ import annotations

import math
from typing import Any, Protocol

EVENT_SECONDS = 10.0
"""Seconds between two log lines while a source is tokenized."""


class TokenizedSource(Protocol):
    """How far the token cache of a source is, as its builder says."""

    @property
    def source(self) -> str:
        """Name of the source."""
        ...

    @property
    def rows(self) -> int:
        """Rows read."""
        ...

    @property
    def documents(self) -> int:
        """Documents made of them."""
        ...

    @property
    def tokens(self) -> int:
        """Their tokens."""
        ...

    @property
    def size_bytes(self) -> int:
        """Their bytes of text."""
        ...

    @property
    def shards(self) -> int:
        """Shards committed."""
        ...

    @property
    def finished(self) -> bool:
        """Whether the cache is whole."""
        ...


class Tokenizing:
    """The newest word on each source."""

    def __init__(self) -> None:
        self._sources: dict[str, TokenizedSource] = {}
        self._logged_at: dict[str, float] = {}

    @property
    def sources(self) -> tuple[TokenizedSource, ...]:
        """The sources, in the order in which they were begun."""
        return tuple(self._sources.values())

    def update(self, built: TokenizedSource, now: float) -> bool:
        """Take note. True where it is time for a line in the log: at a source's beginning and end, and every ten seconds between."""
        self._sources[built.source] = built
        if not built.finished and now - self._logged_at.get(built.source, -math.inf) < EVENT_SECONDS:
            return False
        self._logged_at[built.source] = now
        return True


def fields(built: TokenizedSource) -> dict[str, Any]:
    """The fields of the event ``tokenized``."""
    return {
        "source": built.source,
        "rows": built.rows,
        "documents": built.documents,
        "tokens": built.tokens,
        "size_bytes": built.size_bytes,
        "shards": built.shards,
        "finished": built.finished,
    }
