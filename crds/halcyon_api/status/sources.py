"""The progress of a source that is tokenized: what the token caches give the telemetry of their run."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Built:
    """Progress of the build of a source."""

    source: str
    rows: int
    documents: int
    tokens: int
    size_bytes: int
    """Bytes of text."""
    shards: int
    finished: bool
