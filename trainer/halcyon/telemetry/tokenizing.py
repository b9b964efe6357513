"""The progress of this process in tokenizing the text of a run: reported often, logged at intervals."""

from __future__ import annotations

import math
from typing import Any, Protocol

EVENT_SECONDS = 10.0
"""Seconds between two log lines while a source is tokenized."""


class TokenizedSource(Protocol):
    """The progress of a source's token cache, as its builder reports it."""

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
        """Documents made from these rows."""
        ...

    @property
    def tokens(self) -> int:
        """Tokens of these documents."""
        ...

    @property
    def size_bytes(self) -> int:
        """Bytes of text of these documents."""
        ...

    @property
    def shards(self) -> int:
        """Shards committed."""
        ...

    @property
    def finished(self) -> bool:
        """Whether the cache is complete."""
        ...


class SourceForm(Protocol):
    """The form of a source of conversations."""

    @property
    def source(self) -> str:
        """Name of the source."""
        ...

    @property
    def form(self) -> str:
        """The form: its name, and the fields that are read."""
        ...

    @property
    def rows(self) -> int:
        """Rows tokenized so far."""
        ...

    @property
    def rejected_rows(self) -> int:
        """Rows of these that are left out because of their label."""
        ...

    @property
    def message(self) -> str:
        """One sentence."""
        ...


class Tokenizing:
    """The newest report of each source."""

    def __init__(self) -> None:
        self._sources: dict[str, TokenizedSource] = {}
        self._logged_at: dict[str, float] = {}

    @property
    def sources(self) -> tuple[TokenizedSource, ...]:
        """The reports, in the order in which the sources were begun."""
        return tuple(self._sources.values())

    def update(self, built: TokenizedSource, now: float) -> bool:
        """Record a report. True if a log line is due: at the beginning and end of a source, and every `EVENT_SECONDS` between."""
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
