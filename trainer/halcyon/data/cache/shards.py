"""One shard as arrays and as files: flat little-endian numbers, so that any token is at a known offset of a known file.

Files of a shard, in this order: ``tokens``; ``ends`` (int64: end of each document, in tokens from the shard's begin);
``origins`` (int64 pairs: number of each document's file in the ledger, and its row in that file); ``weights``, if the
format has loss weights; and ``checks`` (uint32: CRC-32 of every block of 32 KiB of the other files, file by file), so
that a reader of a few rows verifies a few blocks and not the whole shard.

The reason for flat files is a comparison of random reads from them, from zarr3 through TensorStore, and from Arrow
(`git show 2979f5f5:tests/bench/bench_cache.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from isal import isal_zlib

from halcyon.data.cache.skipped import NOTHING, Skipped

BLOCK_BYTES = 32 * 1024
"""Bytes under one checksum: the smallest unit of a read."""
TOKENS, ENDS, ORIGINS, WEIGHTS, CHECKS = "tokens", "ends", "origins", "weights", "checks"
ORIGIN_TYPE = np.dtype("<i8")
END_TYPE = np.dtype("<i8")


class Counts(NamedTuple):
    """Numbers of some documents, and of the rows that they were made of."""

    rows: int = 0
    """All rows, those without a document included."""
    empty_rows: int = 0
    """Rows without text, which made no document."""
    rejected_rows: int = 0
    """Rows whose label says that the answer is a bad one, which made no document."""
    documents: int = 0
    tokens: int = 0
    size_bytes: int = 0
    """Bytes of text."""
    skipped: Skipped = NOTHING
    """Files and rows that are left out, which made no document."""

    def plus(self, more: Counts) -> Counts:
        """The sums of both."""
        both: Any = zip(self, more, strict=True)
        return Counts(*(mine + other for mine, other in both))


NO_COUNTS = Counts()


@dataclass(frozen=True)
class Tokenized:
    """Documents as concatenated arrays."""

    tokens: np.ndarray
    """Token ids in the cache's type: [tokens]."""
    ends: np.ndarray
    """End of each document, in tokens: int64 [documents]."""
    origins: np.ndarray
    """File (its number in the ledger) and row in that file of each document: int64 [documents, 2]."""
    weights: np.ndarray | None
    """Loss weight of each token in the cache's type: [tokens]; None: all are 1."""
    counts: Counts

    def digest(self) -> bytes:
        """SHA-256 over the documents, independent of the bounds of shards."""
        digest = hashlib.sha256()
        for name, array in _arrays(self).items():
            content = _bytes(array)
            digest.update(f"{name} {len(content)}\n".encode())
            digest.update(content)
        return digest.digest()


@dataclass(frozen=True)
class Part:
    """The documents of a piece, or of some of its rows.

    Its bounds depend only on the text. A shard consists of whole parts.
    """

    documents: Tokenized
    digest: bytes
    """`Tokenized.digest` of the documents."""


@dataclass
class ShardBuilder:
    """Gathers documents until a shard is full.

    Args:
        content: State of the hash of the cache's contents: the hash of all earlier parts.
    """

    content: bytes
    parts: list[Part] = field(default_factory=list[Part])
    counts: Counts = NO_COUNTS

    def add(self, part: Part) -> None:
        """Append a part."""
        self.parts.append(part)
        self.content = hashlib.sha256(self.content + part.digest).digest()
        self.counts = self.counts.plus(part.documents.counts)

    def take(self) -> Shard:
        """Return the shard of all parts so far, and empty the builder."""
        digest = hashlib.sha256(b"".join(part.digest for part in self.parts)).hexdigest()
        shard = Shard([part.documents for part in self.parts], digest, self.content.hex(), self.counts)
        self.parts, self.counts = [], NO_COUNTS
        return shard


@dataclass(frozen=True)
class Shard:
    """The documents of a shard."""

    parts: Sequence[Tokenized]
    sha256: str
    """Hash of the hashes of its parts."""
    content_sha256: str
    """Hash of the contents of the cache up to the end of the shard, independent of the bounds of shards."""
    counts: Counts

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Names and contents of its files, one by one, so that only one is in memory at a time."""
        starts = np.cumsum([0, *(len(part.tokens) for part in self.parts)]).tolist()
        arrays = [_arrays(part, start) for part, start in zip(self.parts, starts, strict=False)]
        checks: list[np.ndarray] = []
        for name in arrays[0]:
            content = b"".join(_bytes(part[name]) for part in arrays)
            checks.append(checksums(content))
            yield name, content
        yield CHECKS, np.concatenate(checks).tobytes()


def _arrays(documents: Tokenized, start: int = 0) -> dict[str, np.ndarray]:
    """The arrays of documents that begin at token ``start`` of their shard, by the names of their files."""
    arrays = {
        TOKENS: documents.tokens,
        ENDS: (documents.ends + start).astype(END_TYPE, copy=False),
        ORIGINS: documents.origins.astype(ORIGIN_TYPE, copy=False),
    }
    return arrays if documents.weights is None else arrays | {WEIGHTS: documents.weights}


def checksums(content: memoryview | bytes) -> np.ndarray:
    """CRC-32 of every block: uint32 [blocks]."""
    view = memoryview(content)
    return np.fromiter(
        (isal_zlib.crc32(view[start : start + BLOCK_BYTES]) for start in range(0, len(view), BLOCK_BYTES)),
        "<u4",
        block_count(len(view)),
    )


def block_count(size_bytes: int) -> int:
    """Number of blocks of a file."""
    return -(-size_bytes // BLOCK_BYTES)


def check_offsets(sizes: Iterable[int]) -> list[int]:
    """Index in ``checks`` of the first checksum of each file, then the number of all checksums."""
    return list(accumulate(map(block_count, sizes), initial=0))


def _bytes(array: np.ndarray) -> memoryview:
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(little).data.cast("B") if little.size else memoryview(b"")
