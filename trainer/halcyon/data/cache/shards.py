"""One shard as arrays and as files: flat little-endian numbers, so that any token is at a known offset of a known file.

Files of a shard: ``tokens``; ``ends`` (int64: where each document ends, counted in tokens from the shard's begin); ``weights`` where some
tokens do not count in the loss; ``origins`` (int64 pairs: which file of the ledger each document comes from, and its row there); and
``checks`` (uint32: CRC-32 of every block of 32 KiB of all of them, in the order of their names here), so that a reader that takes a few
rows verifies a few blocks and not the whole shard.

Why flat files: `tests/bench/bench_cache_formats.py` reads random rows from these, from zarr3 through TensorStore and from Arrow, side by
side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
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
    """Documents as arrays, one after the other."""

    tokens: np.ndarray
    """Token ids in the cache's type: [tokens]."""
    lengths: np.ndarray
    """Tokens of each document: int64 [documents]."""
    origins: np.ndarray
    """File (its number in the ledger) and row in that file of each document: int64 [documents, 2]."""
    weights: np.ndarray | None
    """Loss weight of each token in the cache's type: [tokens]; None: all count."""
    rows: int
    """Rows they come from."""
    empty_rows: int
    """Rows without text, which made no document."""
    size_bytes: int
    """Bytes of text."""


@dataclass
class ShardBuilder:
    """Gathers documents until a shard is full."""

    parts: list[Tokenized] = field(default_factory=list[Tokenized])
    tokens: int = 0

    def add(self, part: Tokenized) -> None:
        """Append documents."""
        self.parts.append(part)
        self.tokens += len(part.tokens)

    def take(self) -> Tokenized:
        """All documents so far; the builder is empty afterwards."""
        parts, self.parts, self.tokens = self.parts, [], 0
        weights = [part.weights for part in parts if part.weights is not None]
        return Tokenized(
            tokens=np.concatenate([part.tokens for part in parts]),
            lengths=np.concatenate([part.lengths for part in parts]),
            origins=np.concatenate([part.origins for part in parts]),
            weights=np.concatenate(weights) if weights else None,
            rows=sum(part.rows for part in parts),
            empty_rows=sum(part.empty_rows for part in parts),
            size_bytes=sum(part.size_bytes for part in parts),
        )


def files_of(shard: Tokenized) -> dict[str, memoryview]:
    """The files of a shard: name to contents."""
    arrays = {TOKENS: shard.tokens, ENDS: np.cumsum(shard.lengths, dtype=END_TYPE), ORIGINS: shard.origins.astype(ORIGIN_TYPE, copy=False)}
    if shard.weights is not None:
        arrays[WEIGHTS] = shard.weights
    contents = {name: _bytes(array) for name, array in arrays.items()}
    checks = np.concatenate([checksums(content) for content in contents.values()])
    return contents | {CHECKS: _bytes(checks)}


def digest_of(files: dict[str, memoryview]) -> str:
    """SHA-256 (hex) of a shard's files, names and lengths included."""
    digest = hashlib.sha256()
    for name, content in files.items():
        digest.update(f"{name} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


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
