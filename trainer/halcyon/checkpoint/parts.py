"""Writes one process's part of a checkpoint: the files of its shards, then a part document that lists them.

The processes communicate only through the root, because device collectives of a background thread would race with those
of the step. The part document carries its own hash, so a truncated document is detected. A process that fails reports
it in its part, if the store still accepts the write.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from halcyon.checkpoint.codec import Codecs
from halcyon.checkpoint.layout import chunk_path, chunk_region, chunks_of, metadata_path, within
from halcyon.checkpoint.snapshot import Snapshot
from halcyon.host.storage.failures import StoreFailure
from halcyon.host.storage.store import Pieces, Store
from halcyon_api.checkpoint_documents import DATA_PREFIX, DamagedDocument, Document, ManifestFile, canonical_json

WORKERS = 8
"""Number of files that one process writes or reads in parallel."""
PARTS_PREFIX = "parts/"
AGAIN_KEY = f"{PARTS_PREFIX}again"
"""A mark below the prefix of a second try: process 0 made room, and all processes must write once more."""
FIRST_PAUSE_SECONDS = 0.02
LONGEST_PAUSE_SECONDS = 0.5
_TAIL_BYTES = 8

Sleep = Callable[[float], None]
Result = TypeVar("Result")
Report = TypeVar("Report", bound=Document)


class Part(Document):
    """One process's part of a checkpoint."""

    process: int
    files: tuple[ManifestFile, ...] = ()
    error: str | None = None
    is_full: bool = False
    """Whether the error was that there is no space left."""


def second_prefix(prefix: str) -> str:
    """Prefix of the second try of a save whose first try is at `prefix`."""
    return f"{prefix.removesuffix('/')}-2/"


def report_key(prefix: str, process: int) -> str:
    """Key of the document that a process writes below a prefix, such as ``PREFIX/parts/``."""
    return f"{prefix}{process:06d}.json"


def encode_report(report: Document) -> bytes:
    """The stored bytes of a document that a process writes for process 0, with its hash."""
    content = report.document()
    return canonical_json({"content": content, "sha256": hashlib.sha256(canonical_json(content)).hexdigest()})


def decode_report(kind: type[Report], data: bytes) -> Report:
    """Read what `encode_report` made.

    Raises:
        DamagedDocument: The document is damaged.
    """
    try:
        stored = json.loads(data)
        content = canonical_json(stored["content"])
        intact = hashlib.sha256(content).hexdigest() == stored["sha256"]
        report = kind.model_validate_json(content)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedDocument(f"a document of a process cannot be read: {type(error).__name__}") from None
    if not intact:
        raise DamagedDocument("a document of a process does not have the hash that it carries")
    return report


def gather_reports(
    store: Store,
    prefix: str,
    own: int,
    process_count: int,
    late: type[Exception],
    *,
    timeout_seconds: float,
    sleep: Sleep,
) -> Iterator[tuple[int, bytes]]:
    """Wait for the documents of the other processes below a prefix. Yields each process and the stored bytes.

    Args:
        store: The root.
        prefix: The documents are below it, in a folder with their name; see `report_key`.
        own: The process that waits.
        process_count: Number of processes.
        late: The error for processes that write none in time.
        timeout_seconds: Longest wait.
        sleep: Waits this number of seconds.
    """
    deadline = time.monotonic() + timeout_seconds
    waiting = {process: report_key(prefix, process) for process in range(process_count) if process != own}
    pause = FIRST_PAUSE_SECONDS
    while waiting:
        # One listing shows which documents exist: thousands of single requests would take longer than the save.
        listed = set(store.list(prefix))
        come = {process: key for process, key in waiting.items() if key in listed}
        values = in_parallel([lambda key=key: store.read(key) for key in come.values()])
        for process, value in zip(come, values, strict=True):
            yield process, value.data or b""
            del waiting[process]
        if waiting and time.monotonic() >= deadline:
            who, what = ", ".join(map(str, waiting)), prefix.split("/")[-2].removesuffix("s")
            raise late(f"process {who} of {process_count} wrote no {what} within {timeout_seconds:g} s")
        if waiting:
            sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


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
    return encoded(snapshot, lambda path, data: write_file(store, prefix, path, data))


def encoded(snapshot: Snapshot, write: Callable[[str, Pieces], ManifestFile]) -> tuple[ManifestFile, ...]:
    """Encode a process's shards as files, in parallel.

    Args:
        snapshot: The shards.
        write: Writes the file of a path below ``data/``.
    """
    codecs = Codecs()
    jobs: list[Callable[[], ManifestFile]] = []
    for index in snapshot.metadata:
        leaf = snapshot.leaves[index]
        jobs.append(lambda leaf=leaf: write(metadata_path(leaf), (codecs.of(leaf).metadata(),)))
    for shard in snapshot.shards:
        leaf = snapshot.leaves[shard.leaf]
        jobs += [
            lambda leaf=leaf, shard=shard, indices=indices: write(
                chunk_path(leaf, indices),
                codecs.of(leaf).encode(indices, shard.data[within(chunk_region(leaf, indices), shard.region)]),
            )
            for indices in chunks_of(leaf, shard.region)
        ]
    return tuple(in_parallel(jobs))


def remove_files(store: Store, prefix: str, snapshot: Snapshot) -> None:
    """Delete the files that `write_files` wrote or began to write."""
    paths = [metadata_path(snapshot.leaves[index]) for index in snapshot.metadata]
    for shard in snapshot.shards:
        leaf = snapshot.leaves[shard.leaf]
        paths += [chunk_path(leaf, indices) for indices in chunks_of(leaf, shard.region)]
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


def write_file(store: Store, prefix: str, path: str, data: Pieces) -> ManifestFile:
    """Write one file below ``PREFIX/data/``, then read its last bytes: they contain the chunk's checksum, so they also
    prove the size.
    """
    key = f"{prefix}{DATA_PREFIX}{path}"
    file = file_of(path, data)
    store.write(key, data)
    start = max(0, file.size_bytes - _TAIL_BYTES)
    if store.tail(key, start) != b"".join(bytes(piece[-_TAIL_BYTES:]) for piece in data)[-_TAIL_BYTES:]:
        raise StoreFailure("DATA_LOSS", f"the store accepted {key} but does not hold it")
    return file


def file_of(path: str, data: Pieces) -> ManifestFile:
    """The manifest's entry of a file."""
    hashed = hashlib.sha256()
    for piece in data:
        hashed.update(piece)
    return ManifestFile(path=path, size_bytes=sum(map(len, data)), sha256=hashed.hexdigest())
