"""Reads tokens at any offset of a cache, verified block by block. A cache may grow while it is read; existing shards
never change.

On a file system a shard is mapped into memory, and every block is verified at its first use. From an object store, the
missing blocks of a batch are fetched by one round of parallel requests, with neighbouring blocks in one request. They
are verified and kept in a memory of bounded size. If the whole cache fits into this memory, larger ranges are fetched,
so that the cache is soon in memory.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from isal import isal_zlib

from halcyon.data.cache import shards as stored
from halcyon.data.cache.arrays import scratch_array
from halcyon.data.cache.ledger import Ledger, ShardEntry
from halcyon.host.errors import DamagedData
from halcyon.host.storage.store import Store

_LARGE_FETCH_BLOCKS = 32
_KEPT_ENDS = 64
"""Shards whose ends of documents are kept in memory."""


@dataclass(frozen=True)
class ShardFile:
    """Address of a file of a shard and the checksums of its blocks."""

    key: str
    size_bytes: int
    checks: np.ndarray

    def verify(self, block: int, content: memoryview | bytes) -> None:
        """Compare a block with its checksum.

        Raises:
            DamagedData: They differ.
        """
        if isal_zlib.crc32(content) != int(self.checks[block]):
            raise DamagedData(
                f"{self.key} of the token cache is damaged in block {block}; delete the cache and build it again"
            )


class MappedBlocks:
    """A file on a file system, mapped into memory."""

    def __init__(self, file: ShardFile, path: Path) -> None:
        self._file = file
        try:
            self._bytes = np.memmap(path, np.uint8, mode="r") if file.size_bytes else np.empty(0, np.uint8)
        except (OSError, ValueError):
            raise DamagedData(
                f"{path} of the token cache is missing or cannot be read; delete the cache and build it again"
            ) from None
        if len(self._bytes) != file.size_bytes:
            raise DamagedData(
                f"{path} of the token cache has {len(self._bytes)} bytes, not {file.size_bytes}; delete the cache and "
                "build it again"
            )
        self._verified = np.zeros(len(file.checks), bool)

    def require(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Load and verify the bytes of these ranges [start, end).

        Raises:
            DamagedData: A block differs from its checksum.
        """
        for start, end in ranges:
            first, last = start // stored.BLOCK_BYTES, (end - 1) // stored.BLOCK_BYTES
            for block in range(first, last + 1):
                if not self._verified[block]:
                    self._file.verify(
                        block, self._bytes[block * stored.BLOCK_BYTES : (block + 1) * stored.BLOCK_BYTES].data
                    )
                    self._verified[block] = True

    def copy(self, start: int, out: np.ndarray) -> None:
        """Copy bytes from ``start`` on into ``out`` (uint8). `require` must have loaded them before."""
        out[:] = self._bytes[start : start + len(out)]


class Memory:
    """Blocks of all files of all caches of a process; drops the least recently used blocks first.

    Args:
        size_bytes: Bytes of blocks that are kept, at most.
    """

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._room = max(1, size_bytes // stored.BLOCK_BYTES)
        self._blocks: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str, block: int) -> bytes | None:
        """A block; None: it is not kept."""
        with self._lock:
            content = self._blocks.get((key, block))
            if content is not None:
                self._blocks.move_to_end((key, block))
            return content

    def put(self, key: str, block: int, content: bytes) -> None:
        """Keep a block."""
        with self._lock:
            self._blocks[key, block] = content
            while len(self._blocks) > self._room:
                self._blocks.popitem(last=False)


@dataclass
class FetchedBlocks:
    """A file in an object store.

    Args:
        file: Its address and checksums.
        fetch: Reads ranges (key, start, end) in parallel.
        memory: Keeps the blocks.
        fetch_blocks: Number of neighbouring blocks that are fetched together.
    """

    file: ShardFile
    fetch: Callable[[Sequence[tuple[str, int, int]]], list[bytes]]
    memory: Memory
    fetch_blocks: int
    _held: threading.local = field(default_factory=threading.local)

    def require(self, ranges: Sequence[tuple[int, int]]) -> None:
        """See `MappedBlocks`."""
        held: dict[int, bytes] = {}
        missing: set[int] = set()
        for start, end in ranges:
            for block in range(start // stored.BLOCK_BYTES, (end - 1) // stored.BLOCK_BYTES + 1):
                if block in held or block in missing:
                    continue
                content = self.memory.get(self.file.key, block)
                if content is not None:
                    held[block] = content
                else:
                    part = block // self.fetch_blocks * self.fetch_blocks
                    missing.update(range(part, min(part + self.fetch_blocks, len(self.file.checks))))
        needed = np.array(sorted(missing - held.keys()), int)
        borders = np.flatnonzero(np.diff(needed) > 1) + 1
        runs = [(run[0], run[-1]) for part in np.split(needed, borders) if (run := part.tolist())]
        requests = [
            (self.file.key, first * stored.BLOCK_BYTES, min((last + 1) * stored.BLOCK_BYTES, self.file.size_bytes))
            for first, last in runs
        ]
        for (first, last), content in zip(runs, self.fetch(requests), strict=True):
            for block in range(first, last + 1):
                part = content[(block - first) * stored.BLOCK_BYTES : (block - first + 1) * stored.BLOCK_BYTES]
                self.file.verify(block, part)
                self.memory.put(self.file.key, block, part)
                held[block] = part
        # Held for this thread's next copies, because other threads may make the memory drop them.
        self._held.blocks = held

    def copy(self, start: int, out: np.ndarray) -> None:
        """See `MappedBlocks`."""
        done = 0
        while done < len(out):
            block, offset = divmod(start + done, stored.BLOCK_BYTES)
            content = self._held.blocks[block]
            count = min(len(out) - done, len(content) - offset)
            out[done : done + count] = np.frombuffer(content, np.uint8, count, offset)
            done += count


Blocks = MappedBlocks | FetchedBlocks
"""The bytes of one file of a shard."""


@dataclass(frozen=True)
class _ShardIndex:
    """The existing shards, and the offset in the stream of each one's begin and of the last one's end: int64 [shards +
    1].
    """

    shards: tuple[ShardEntry, ...]
    starts: np.ndarray

    @classmethod
    def of(cls, ledger: Ledger) -> _ShardIndex:
        return cls(
            ledger.shards, np.concatenate([[0], np.cumsum([shard.tokens for shard in ledger.shards], dtype=np.int64)])
        )


class TokenReader:
    """Random access to the token stream of a source, which is the concatenation of all shards.

    Args:
        store: The cache's root.
        name: Name of the source.
        ledger: The ledger of the source; `grow` takes later ones.
        memory: Keeps blocks from an object store.
    """

    def __init__(self, store: Store, name: str, ledger: Ledger, memory: Memory) -> None:
        self._store = store
        self._memory = memory
        self._name = name
        self.token_type = np.dtype(ledger.token_type).newbyteorder("<")
        self.weight_type = None if ledger.weight_type is None else np.dtype(ledger.weight_type).newbyteorder("<")
        self._blocks = cache(self._open)
        self._known_ends = lru_cache(maxsize=_KEPT_ENDS)(self._read_ends)
        self._there = _ShardIndex.of(ledger)

    @property
    def tokens(self) -> int:
        """Tokens of the existing shards."""
        return int(self._there.starts[-1])

    def grow(self, ledger: Ledger) -> None:
        """Add the shards of a later state of the same ledger. Other threads may read at the same time.

        Raises:
            DamagedData: The ledger does not begin with the shards so far.
        """
        before = self._there.shards
        if ledger.shards[: len(before)] != before:
            raise DamagedData(
                f"spec.data.cache.root: the token cache {self._store.root}/{self._name} was rebuilt while a run read "
                "it; start the run again"
            )
        if len(ledger.shards) > len(before):
            self._there = _ShardIndex.of(ledger)

    def gather(self, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """The tokens of spans [start, start + length) of the stream, concatenated.

        Args:
            starts: Offsets of the spans: int64 [spans].
            lengths: Tokens of the spans: integers [spans].
        """
        return self._gather(stored.TOKENS, self.token_type, starts, lengths)

    def gather_weights(self, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray | None:
        """The loss weights of the same tokens; None: all are 1."""
        return None if self.weight_type is None else self._gather(stored.WEIGHTS, self.weight_type, starts, lengths)

    def gather_begins(self, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Whether a document ends right before each of the same tokens, within its span: bool [tokens]."""
        lengths, starts = np.asarray(lengths, np.int64), np.asarray(starts, np.int64)
        begins = np.zeros(int(lengths.sum()), bool)
        offsets = np.cumsum(lengths) - lengths
        firsts = np.searchsorted(self._there.starts, starts, side="right") - 1
        lasts = np.searchsorted(self._there.starts, starts + lengths, side="left")
        for start, length, offset, first, last in zip(
            *(each.tolist() for each in (starts, lengths, offsets, firsts, lasts)), strict=True
        ):
            for shard in range(first, last):
                ends = self._known_ends(shard)
                inside = ends[
                    np.searchsorted(ends, start, side="right") : np.searchsorted(ends, start + length, side="left")
                ]
                begins[inside - start + offset] = True
        return begins

    def _read_ends(self, shard: int) -> np.ndarray:
        """The ends, in the stream, of the documents that end in a shard: int64 [documents]."""
        ends = np.empty(self._there.shards[shard].documents, np.int64)
        if len(ends):
            blocks = self._blocks(shard, stored.ENDS)
            blocks.require([(0, ends.nbytes)])
            blocks.copy(0, ends.view(np.uint8))
        return ends + self._there.starts[shard]

    def document_ends(self) -> np.ndarray:
        """End of each document in the stream: int64 [documents]."""
        there = self._there
        ends = scratch_array((sum(shard.documents for shard in there.shards),), np.int64)
        done = 0
        for index, shard in enumerate(there.shards):
            ends[done : done + shard.documents] = self._read_ends(index)
            done += shard.documents
        return ends

    def documents_around(self, start: int, end: int) -> tuple[int, np.ndarray]:
        """The documents of a part of a finished stream. Reads only the shards in which they, and the document before
        them, end.

        Args:
            start: First token of the part.
            end: Token after the last one of the part.

        Returns:
            The number of a document that is the first of the stream or ends before the part; and the ends of this
            document and the
            following ones, at least up to the end of the part: int64 [documents].
        """
        there = self._there
        counts = np.array([shard.documents for shard in there.shards])
        holding = np.searchsorted(there.starts, [start, end - 1], side="right") - 1
        before = np.flatnonzero(counts[: holding[0]])
        first = int(before[-1]) if len(before) else 0
        last = int(holding[1])
        ends: list[np.ndarray] = []
        for index in range(first, len(there.shards)):
            ends.append(self._known_ends(index))
            if index >= last and counts[index] and ends[-1][-1] >= end:  # a long document ends in a later shard
                break
        return int(counts[:first].sum()), np.concatenate(ends)

    def origins_of(self, documents: np.ndarray) -> np.ndarray:
        """File (its number in the ledger) and row in that file of the given documents: int64 [n, 2]."""
        there = self._there
        firsts = np.concatenate([[0], np.cumsum([shard.documents for shard in there.shards], dtype=np.int64)])
        origins = np.empty((len(documents), 2), np.int64)
        size = 2 * stored.ORIGIN_TYPE.itemsize
        shards = np.searchsorted(firsts, documents, side="right") - 1
        for shard in np.unique(shards).tolist():
            here = np.flatnonzero(shards == shard)
            begins = ((documents[here] - firsts[shard]) * size).tolist()
            blocks = self._blocks(shard, stored.ORIGINS)
            blocks.require([(begin, begin + size) for begin in begins])
            for at, begin in zip(here.tolist(), begins, strict=True):
                blocks.copy(begin, origins[at].view(np.uint8))
        return origins

    def _gather(self, kind: str, dtype: np.dtype, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        lengths = np.asarray(lengths, np.int64)
        starts = np.asarray(starts, np.int64)
        out = np.empty(int(lengths.sum()), dtype)
        view = out.view(np.uint8)
        size = dtype.itemsize
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        parts: dict[int, list[tuple[int, int, int]]] = {}
        begins = self._there.starts
        shards = np.searchsorted(begins, starts, side="right") - 1
        for shard, start, length, offset in zip(
            shards.tolist(), starts.tolist(), lengths.tolist(), offsets.tolist(), strict=False
        ):
            while length > 0:
                inside = min(length, int(begins[shard + 1]) - start)
                if inside > 0:
                    local = (start - int(begins[shard])) * size
                    parts.setdefault(shard, []).append((local, local + inside * size, offset * size))
                start, length, offset, shard = start + inside, length - inside, offset + inside, shard + 1
        for shard, spans in parts.items():
            blocks = self._blocks(shard, kind)
            blocks.require([(begin, end) for begin, end, _ in spans])
            for begin, end, to in spans:
                blocks.copy(begin, view[to : to + end - begin])
        return out

    def _open(self, index: int, kind: str) -> Blocks:
        shard = self._there.shards[index]
        sizes = {
            stored.TOKENS: shard.tokens * self.token_type.itemsize,
            stored.ENDS: shard.documents * stored.END_TYPE.itemsize,
            stored.ORIGINS: shard.documents * 2 * stored.ORIGIN_TYPE.itemsize,
        }
        if self.weight_type is not None:
            sizes[stored.WEIGHTS] = shard.tokens * self.weight_type.itemsize
        offsets = dict(zip(sizes, stored.check_offsets(sizes.values()), strict=False))
        checks_key = f"{shard.path}{stored.CHECKS}"
        content = self._store.read(checks_key).data
        if content is None or len(content) != 4 * stored.check_offsets(sizes.values())[-1]:
            raise DamagedData(
                f"{checks_key} of the token cache is missing or truncated; delete the cache and build it again"
            )
        checks = np.frombuffer(content, "<u4")[offsets[kind] : offsets[kind] + stored.block_count(sizes[kind])]
        file = ShardFile(f"{shard.path}{kind}", sizes[kind], checks)
        if self._store.folder is not None:
            return MappedBlocks(file, self._store.folder / file.key)
        fits = self.tokens * self.token_type.itemsize <= self._memory.size_bytes
        return FetchedBlocks(file, self._store.read_ranges, self._memory, _LARGE_FETCH_BLOCKS if fits else 1)
