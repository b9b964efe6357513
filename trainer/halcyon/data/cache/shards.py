"""One shard as arrays and as files: flat little-endian numbers, so that any token is at a known offset of a known file.

Files of a shard: ``tokens``; ``ends`` (int64: where each document ends, counted in tokens from the shard's begin); ``weights`` where some
tokens do not count in the loss; ``origins`` (int64 pairs: which file of the ledger each document comes from, and its row there); and
``checks`` (uint32: CRC-32 of every block of 32 KiB of all of them, in the order of their names here), so that a reader that takes a few
rows verifies a few blocks and not the whole shard.

Why flat files: `tests/bench/bench_cache.py` reads random rows from these, from zarr3 through TensorStore and from Arrow, side by side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from isal import isal_zlib

BLOCK_BYTES = 32 * 1024
"""Bytes under one checksum: the least that is read."""
TOKENS, ENDS, ORIGINS, WEIGHTS, CHECKS = "tokens", "ends", "origins", "weights", "checks"
ORIGIN_TYPE = np.dtype("<i8")
END_TYPE = np.dtype("<i8")


@dataclass(frozen=True)
class Tokenized:
    """Documents as arrays, one after the other; the last one may go on in what follows."""

    tokens: np.ndarray
    """Token ids in the cache's type: [tokens]."""
    ends: np.ndarray
    """Where each document ends, in tokens: int64 [documents]. Tokens after the last end are of a document that goes on."""
    origins: np.ndarray
    """File (its number in the ledger) and row in that file of each document: int64 [documents, 2]."""
    weights: np.ndarray | None
    """Loss weight of each token in the cache's type: [tokens]; None: all count."""
    rows: int
    """Rows that end here."""
    empty_rows: int
    """Rows without text, which made no document."""
    size_bytes: int
    """Bytes of text."""
    open_tokens: int = 0
    """Tokens up to here, earlier parts included, of the document that goes on; 0: none does."""

    def digest(self) -> bytes:
        """SHA-256 over the documents, whatever shards they come to lie in."""
        digest = hashlib.sha256()
        for name, array in _arrays(self).items():
            content = _bytes(array)
            digest.update(f"{name} {len(content)}\n".encode())
            digest.update(content)
        return digest.digest()


@dataclass(frozen=True)
class Part:
    """What is cut off the text by the text alone: the documents of a piece, or a part of a long one. Shards are made of whole parts."""

    documents: Tokenized
    digest: bytes
    """Of the documents."""


@dataclass
class ShardBuilder:
    """Gathers documents until a shard is full.

    Args:
        content: The state of the hash of the cache's contents: hash of all parts before.
    """

    content: bytes = b""
    parts: list[Part] = field(default_factory=list[Part])
    tokens: int = 0
    rows: int = 0
    documents: int = 0
    size_bytes: int = 0

    def add(self, part: Part) -> None:
        """Append documents."""
        self.parts.append(part)
        self.content = hashlib.sha256(self.content + part.digest).digest()
        documents = part.documents
        self.tokens += len(documents.tokens)
        self.rows += documents.rows
        self.documents += len(documents.ends)
        self.size_bytes += documents.size_bytes

    def take(self) -> Shard:
        """All documents so far; the builder is empty afterwards."""
        digest = hashlib.sha256(b"".join(part.digest for part in self.parts)).hexdigest()
        shard = Shard([part.documents for part in self.parts], digest, self.content.hex())
        self.parts, self.tokens, self.rows, self.documents, self.size_bytes = [], 0, 0, 0, 0
        return shard


@dataclass(frozen=True)
class Shard:
    """Documents that make a shard."""

    parts: Sequence[Tokenized]
    sha256: str
    """Hash of its contents: of the hashes of its parts."""
    content_sha256: str
    """Hash of the contents of the cache up to its end, the same wherever shards are cut."""

    @property
    def tokens(self) -> int:
        """Tokens of all parts."""
        return sum(len(part.tokens) for part in self.parts)

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Names and contents of its files, one after the other, so that one of them is in memory at a time."""
        starts = np.cumsum([0, *(len(part.tokens) for part in self.parts)]).tolist()
        arrays = [_arrays(part, start) for part, start in zip(self.parts, starts, strict=False)]
        checks: list[np.ndarray] = []
        for name in arrays[0]:
            content = b"".join(_bytes(part[name]) for part in arrays)
            checks.append(checksums(content))
            yield name, content
        yield CHECKS, np.concatenate(checks).tobytes()


def _arrays(documents: Tokenized, start: int = 0) -> dict[str, np.ndarray]:
    """The arrays of documents that begin at a token of their shard, by the names of the files that they go to."""
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
        (isal_zlib.crc32(view[start : start + BLOCK_BYTES]) for start in range(0, len(view), BLOCK_BYTES)), "<u4", block_count(len(view))
    )


def block_count(size_bytes: int) -> int:
    """Blocks of a file."""
    return -(-size_bytes // BLOCK_BYTES)


def check_offsets(sizes: Iterable[int]) -> list[int]:
    """Where the checksums of each of several files begin in ``checks``, and their number at the end."""
    offsets = [0]
    for size in sizes:
        offsets.append(offsets[-1] + block_count(size))
    return offsets


def _bytes(array: np.ndarray) -> memoryview:
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(little).data.cast("B") if little.size else memoryview(b"")
