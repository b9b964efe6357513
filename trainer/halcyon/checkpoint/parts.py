"""Writes one process's part of a checkpoint: the files of its shards, then a part document that lists them.

The processes communicate only through the root, because device collectives of a background thread would race with those
of the step. The part document carries its own hash, so a truncated document is detected. A process that fails reports
it in its part, if the store still accepts the write.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from halcyon.checkpoint.codec import Codecs
from halcyon.checkpoint.layout import METADATA_KEY, chunk_key, chunk_region, chunks_of, folder
from halcyon.checkpoint.snapshot import Shard, Snapshot
from halcyon.storage.failures import StoreFailure
from halcyon.storage.store import Pieces, Store
from halcyon_api.checkpoint_documents import (
    DATA_PREFIX,
    DamagedDocument,
    Document,
    ManifestFile,
    ManifestLeaf,
    canonical_json,
)

WORKERS = 8
"""Number of files that one process writes or reads in parallel."""
PARTS_PREFIX = "parts/"
AGAIN_KEY = f"{PARTS_PREFIX}again"
"""A mark below the prefix of a second try: process 0 made room, and all processes must write once more."""
_TAIL_BYTES = 8

Result = TypeVar("Result")


class Part(Document):
    """One process's part of a checkpoint."""

    process: int
    files: tuple[ManifestFile, ...] = ()
    error: str | None = None
    is_full: bool = False
    """Whether the error was that there is no space left."""


def part_key(prefix: str, process: int) -> str:
    """Key of a process's part document."""
    return f"{prefix}{PARTS_PREFIX}{process:06d}.json"


def second_prefix(prefix: str) -> str:
    """Prefix of the second try of a save whose first try is at `prefix`."""
    return f"{prefix.removesuffix('/')}-2/"


def encode_part(part: Part) -> bytes:
    """The stored bytes of a part."""
    document = part.document()
    return canonical_json({"part": document, "sha256": hashlib.sha256(canonical_json(document)).hexdigest()})


def decode_part(data: bytes) -> Part:
    """Read a stored part.

    Raises:
        DamagedDocument: The document is damaged.
    """
    try:
        sealed = json.loads(data)
        document = canonical_json(sealed["part"])
        if hashlib.sha256(document).hexdigest() != sealed["sha256"]:
            raise DamagedDocument("a part manifest does not have the hash that it carries")
        return Part.model_validate_json(document)
    except DamagedDocument:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedDocument(f"a part manifest cannot be read: {type(error).__name__}") from None


def write_files(store: Store, prefix: str, snapshot: Snapshot) -> tuple[ManifestFile, ...]:
    """Write a process's shards below ``PREFIX/data/`` and check that the store has each file.

    Args:
        store: The root.
        prefix: Prefix of the checkpoint.
        snapshot: The shards to write.

    Raises:
        StoreFailure: A write failed, or the store does not hold the file. No write is still running when this is
            raised.
    """
    codecs = Codecs()
    jobs: list[Callable[[], ManifestFile]] = []
    for index in snapshot.metadata:
        leaf = snapshot.leaves[index]
        path = f"{folder(leaf.path)}/{METADATA_KEY}"
        jobs.append(lambda leaf=leaf, path=path: write_file(store, prefix, path, (codecs.of(leaf).metadata(),)))
    for shard in snapshot.shards:
        leaf = snapshot.leaves[shard.leaf]
        jobs += [
            lambda leaf=leaf, shard=shard, indices=indices: write_file(
                store,
                prefix,
                f"{folder(leaf.path)}/{chunk_key(indices)}",
                codecs.of(leaf).encode(indices, _chunk(leaf, shard, indices)),
            )
            for indices in chunks_of(leaf, shard.region)
        ]
    return tuple(in_parallel(jobs))


def remove_files(store: Store, prefix: str, snapshot: Snapshot) -> None:
    """Delete the files that `write_files` wrote or began to write."""
    paths = [f"{folder(snapshot.leaves[index].path)}/{METADATA_KEY}" for index in snapshot.metadata]
    for shard in snapshot.shards:
        leaf = snapshot.leaves[shard.leaf]
        paths += [f"{folder(leaf.path)}/{chunk_key(indices)}" for indices in chunks_of(leaf, shard.region)]
    in_parallel([lambda path=path: store.delete(f"{prefix}{DATA_PREFIX}{path}") for path in paths])


def in_parallel(jobs: Sequence[Callable[[], Result]]) -> list[Result]:
    """Run jobs in `WORKERS` threads.

    After the first failure no further job starts; it is raised when all running jobs have ended.
    """
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="checkpoint-io") as pool:
        futures = [pool.submit(job) for job in jobs]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _chunk(leaf: ManifestLeaf, shard: Shard, indices: tuple[int, ...]) -> np.ndarray:
    parts = zip(chunk_region(leaf, indices), shard.region, strict=True)
    return shard.data[tuple(slice(part.start - own.start, part.stop - own.start) for part, own in parts)]


def write_file(store: Store, prefix: str, path: str, data: Pieces) -> ManifestFile:
    """Write one file below ``PREFIX/data/``, then read its last bytes: they contain the chunk's checksum, so they also
    prove the size.
    """
    key = f"{prefix}{DATA_PREFIX}{path}"
    hashed = hashlib.sha256()
    for piece in data:
        hashed.update(piece)
    store.write(key, data)
    size = sum(map(len, data))
    start = max(0, size - _TAIL_BYTES)
    if store.tail(key, start) != b"".join(bytes(piece[-_TAIL_BYTES:]) for piece in data)[-_TAIL_BYTES:]:
        raise StoreFailure("DATA_LOSS", f"the store accepted {key} but does not hold it")
    return ManifestFile(path=path, size_bytes=size, sha256=hashed.hexdigest())
