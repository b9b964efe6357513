"""A root as a store of whole values with compare-and-swap, through TensorStore's key-value drivers, or
what has their interface (`azure`).

This module depends on three facts of that interface. An empty ``if_equal`` means *no condition*, so "must not exist" is
the generation that a read of the missing key returned. A failed compare-and-swap does not raise: it returns an empty
generation. A request that the driver retried can report a failed compare-and-swap although its first try succeeded, so
the writer then reads the present value (`HeadKeeper`).

Every wait has a deadline and ends early when the work is abandoned: a store that never answers (a file lock held by a
stopped process, a network that drops all packets) must not block a process forever.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorstore as ts

from halcyon.host.storage.azure import AzureContainer
from halcyon.host.storage.failures import STOPPED, Abandoned, StoreFailure, from_os, from_tensorstore
from halcyon.host.storage.files import begin, exclusive, remove_leftovers, write_file
from halcyon.host.storage.retry_budget import RetryBudget, WaitStopped
from halcyon_api.environment import RUN_DOCUMENT
from halcyon_api.plain_files import require_file
from halcyon_api.spec.checkpoint import CheckpointSpec, normal_root, parse_root

Pieces = tuple[bytes | memoryview, ...]
"""One value to write, as pieces in their order."""
Request = Callable[[], Any]
"""Starts a request, and gives its future."""
LOCK_KEY = "LOCK"
"""File of a `file://` root whose lock is held during a compare-and-swap."""
_WAIT_SLICE_SECONDS = 0.2
_REQUESTS_AT_A_TIME = 64
_RETRIES = {"max_retries": 12, "initial_delay": "200ms", "max_delay": "4s"}
"""About half a minute in total, in which a gateway can restart."""
_RETRIES_OF_USER = _RETRIES | {"max_retries": 4}
"""About three seconds in total: a user outside a cluster waits for the answer."""


def kvstore_spec(checkpoint: CheckpointSpec, environ: Mapping[str, str]) -> dict[str, Any]:
    """TensorStore's JSON description of the root. It contains no credentials, only where the driver finds them.

    S3 with an endpoint uses path addresses (``ENDPOINT/BUCKET/KEY``), which every gateway supports.

    Args:
        checkpoint: ``spec.checkpoint`` of the run.
        environ: The process's environment. A key pair in it is used; otherwise the identity of the machine.
    """
    root, retries = parse_root(checkpoint.root), _RETRIES if RUN_DOCUMENT in environ else _RETRIES_OF_USER
    if root.scheme == "file":
        # The driver's own lock would mix values after a kill; see `files`.
        return {"driver": "file", "path": f"{root.path}/", "file_io_locking": {"mode": "none"}}
    if root.scheme == "gs":
        return {"driver": "gcs", "bucket": root.bucket, "path": f"{root.path}/", "gcs_request_retries": retries}
    spec: dict[str, Any] = {
        "driver": "s3",
        "bucket": root.bucket,
        "path": f"{root.path}/",
        "s3_request_retries": retries,
        "use_conditional_write": True,  # by default the driver only reads before it writes, for some servers
    }
    if checkpoint.endpoint:
        spec["endpoint"] = checkpoint.endpoint.rstrip("/")
    if environ.get("AWS_ACCESS_KEY_ID") and environ.get("AWS_SECRET_ACCESS_KEY"):
        spec["aws_credentials"] = {
            "type": "environment"
        }  # otherwise the driver first logs that files in the home folder are missing
    region = checkpoint.region or ("us-east-1" if checkpoint.endpoint else None)
    if region:
        spec["aws_region"] = region
    return spec


@dataclass(frozen=True)
class Value:
    """The value of a key: the bytes (None if the key is missing) and the generation for a compare-and-swap."""

    data: bytes | None
    generation: bytes


class Store:
    """The keys below one root.

    Args:
        checkpoint: Root, endpoint and region.
        abandoned: Called during waits; True ends the wait with `Abandoned`.
        timeout_seconds: Longest wait for one request.
        retry_budget: Retries of requests to which an object store denies access. Default: no retries.
    """

    def __init__(
        self,
        checkpoint: CheckpointSpec,
        *,
        abandoned: Callable[[], bool] = lambda: False,
        timeout_seconds: float = 300.0,
        retry_budget: RetryBudget | None = None,
    ) -> None:
        self.root = normal_root(checkpoint.root)
        self._abandoned = abandoned
        self._timeout_seconds = timeout_seconds
        self.place = checkpoint
        """Root, endpoint and region."""
        self.folder = Path(parse_root(checkpoint.root).path) if self.root.startswith("file://") else None
        """The folder of a `file://` root; None for an object store."""
        self.retry_budget = None if self.folder is not None else retry_budget
        """None after the root is open: then a save that is denied access is reported, and the training continues."""
        self.answered_at = time.monotonic()
        """When the store last completed a request, in seconds of the monotonic clock."""
        self._kvstore = self._open()

    def free_bytes(self) -> int | None:
        """Free bytes of the file system of a `file://` root; None if this is unknown."""
        if self.folder is None:
            return None
        try:
            status = os.statvfs(next(folder for folder in (self.folder, *self.folder.parents) if folder.exists()))
        except OSError:
            return None
        return (
            status.f_bavail * status.f_frsize if status.f_blocks else None
        )  # some network file systems do not report it

    def read(self, key: str) -> Value:
        """The value of a key and its generation."""
        self._require_file(key)
        result = self._wait(lambda: self._kvstore.read(key))
        return Value(result.value if result.state == "value" else None, result.stamp.generation)

    def _require_file(self, key: str) -> None:
        """Of a `file://` root: raise a failure for a pipe or a device, which a request would wait for without end."""
        if self.folder is not None:
            try:
                require_file(self.folder / key)
            except OSError as error:
                raise StoreFailure("FAILED_PRECONDITION", f"{error.filename}: {error.strerror}") from None

    def forget(self, key: str) -> None:
        """Drop a file of a `file://` root from the page cache, if the operating system supports it, so the next read is
        from the disk.
        """
        if self.folder is not None and hasattr(os, "posix_fadvise"):
            with contextlib.suppress(OSError):
                descriptor = os.open(self.folder / key, os.O_RDONLY)
                try:
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                finally:
                    os.close(descriptor)

    def tail(self, key: str, start: int) -> bytes | None:
        """The bytes of a key from `start` on: one small request checks size and end.

        None if the key is missing or shorter.
        """
        self._require_file(key)
        try:
            result = self._wait(lambda: self._kvstore.read(key, byte_range=slice(start, None)))
        except StoreFailure as failure:
            if failure.code == "OUT_OF_RANGE":
                return None
            raise
        return result.value if result.state == "value" else None

    def read_ranges(self, requests: Sequence[tuple[str, int, int]]) -> list[bytes]:
        """The bytes [start, end) of keys, with all requests in parallel.

        Args:
            requests: Key, start and end of each range.

        Raises:
            StoreFailure: A key is missing or shorter than its end, or the root does not answer.
        """
        for key in {key for key, _, _ in requests}:
            self._require_file(key)
        asks = [
            _started_request(lambda one=one: self._kvstore.read(one[0], byte_range=slice(one[1], one[2])))
            for one in requests
        ]
        contents: list[bytes] = []
        for (key, start, end), ask in zip(requests, asks, strict=True):
            result = self._wait(ask, ahead=True)
            value = result.value  # each access copies the bytes
            if result.state != "value" or len(value) != end - start:
                raise StoreFailure("NOT_FOUND", f"{self.root}/{key} is missing or too short")
            contents.append(value)
        return contents

    def write(self, key: str, data: bytes | Iterable[bytes | memoryview]) -> None:
        """Write a key that no other process writes; `data` is the value or its pieces.

        A `file://` root writes pieces as an iterator makes them; an object store gets them in one request, from memory.
        """
        pieces = (data,) if isinstance(data, bytes) else data
        if self.folder is not None:
            path = self.folder / key
            self._wait(lambda: begin(lambda: write_file(path, pieces), name="checkpoint-file"))
        else:
            value = data if isinstance(data, bytes) else b"".join(pieces)
            self._wait(lambda: self._kvstore.write(key, value))

    def swap(self, key: str, data: bytes, generation: bytes) -> bytes | None:
        """Write a key only if its generation is still the given one.

        Returns:
            The new generation, or None if another writer was first.
        """
        if not generation:
            raise ValueError("an empty generation means no condition")
        with contextlib.ExitStack() as held:
            if self.folder is not None:
                lock, wait = self.folder / LOCK_KEY, self._timeout_seconds
                held.enter_context(exclusive(lock, timeout_seconds=wait, abandoned=self._abandoned))
                remove_leftovers(self.folder / key)
            return self._wait(lambda: self._kvstore.write(key, data, if_equal=generation)).generation or None

    def count_concurrent_swaps(self, key: str, values: Sequence[bytes], generation: bytes) -> int:
        """Issue several compare-and-swaps of the same generation in parallel, and return how many succeeded."""
        with ThreadPoolExecutor(len(values)) as pool:
            return sum(won is not None for won in pool.map(lambda value: self.swap(key, value, generation), values))

    def create(self, key: str, data: bytes) -> bool:
        """Write a key that does not exist yet. False if it exists with other content."""
        present = self.read(key)
        if present.data is None and self.swap(key, data, present.generation) is not None:
            return True
        return self.read(key).data == data

    def list(self, prefix: str) -> list[str]:
        """All keys that begin with `prefix`, sorted, relative to the root."""
        keys = self._wait(lambda: self._kvstore.list(_range(prefix)))
        return sorted(os.fsdecode(key) for key in keys)

    def list_between(self, ranges: Sequence[tuple[str, str]]) -> list[str]:
        """All keys in the ranges [first, second), with up to 64 requests in parallel."""

        def keys(ends: tuple[str, str]) -> Iterable[bytes]:
            return self._wait(lambda: self._kvstore.list(ts.KvStore.KeyRange(*map(os.fsencode, ends))))

        with ThreadPoolExecutor(_REQUESTS_AT_A_TIME) as pool:
            return [os.fsdecode(key) for found in pool.map(keys, ranges) for key in found]

    def folders(self, prefix: str) -> list[str]:
        """Folders directly below a prefix of a `file://` root, with a slash at their end; empty for an object store.

        A process that was killed during its first write below a prefix leaves a folder without any key.
        """
        if self.folder is None or not (self.folder / prefix).is_dir():
            return []
        with os.scandir(self.folder / prefix) as entries:
            return sorted(f"{prefix}{entry.name}/" for entry in entries if entry.is_dir())

    def delete(self, key: str) -> None:
        """Delete a key, if it exists."""
        self._wait(lambda: self._kvstore.write(key, None))

    def delete_prefix(self, prefix: str) -> None:
        """Delete everything below a prefix that ends with a slash."""
        if not prefix.endswith("/"):
            raise ValueError(f"a prefix ends with a slash, not {prefix!r}")
        self._wait(lambda: self._kvstore.delete_range(_range(prefix)))
        if self.folder is not None:
            with contextlib.suppress(OSError):  # TensorStore deletes only files; a folder with other files stays
                (self.folder / prefix).rmdir()

    def _open(self) -> ts.KvStore | AzureContainer:
        """A new driver, which reads the present credentials."""
        if self.root.startswith("az://"):
            return AzureContainer(self.place, self._timeout_seconds)
        return self._answer(lambda: ts.KvStore.open(kvstore_spec(self.place, os.environ)))

    def _wait(self, start: Request, *, ahead: bool = False) -> Any:
        """Wait for the future that `start` returns. If the store denies access, read the credentials again and retry.

        Args:
            start: Starts the request.
            ahead: The first request has already started. Its credentials may be older than the store's, so its first
                retry is immediate.
        """
        began: float | None = None
        retry_budget, answers, tries = self.retry_budget, False, 0
        try:
            while True:
                try:
                    result = self._answer(start)
                except StoreFailure as failure:
                    if retry_budget is None or not failure.is_refusal:
                        raise
                    if ahead:
                        ahead = False
                        continue
                    tries += 1
                    try:
                        began = retry_budget.wait(self.root, failure, tries, began)
                    except WaitStopped:
                        raise StoreFailure(STOPPED, "a notice to end came while the store refused access") from None
                    self._kvstore = self._open()
                else:
                    answers, self.answered_at = True, time.monotonic()
                    return result
        finally:
            if retry_budget is not None and began is not None:
                retry_budget.end_wait(self.root, began, answers=answers)

    def _answer(self, start: Request) -> Any:
        """Wait for the future that `start` returns, in short intervals, so that abandoned work ends soon."""
        deadline = time.monotonic() + self._timeout_seconds
        try:
            future = start()
            while True:
                if self._abandoned():
                    raise Abandoned
                try:
                    return future.result(timeout=_WAIT_SLICE_SECONDS)
                except TimeoutError:
                    if future.done():  # it was done just now, or the file system itself raised this error
                        return future.result()
                    if time.monotonic() >= deadline:
                        raise StoreFailure(
                            "DEADLINE_EXCEEDED", f"no answer within {self._timeout_seconds:g} s"
                        ) from None
        except (StoreFailure, Abandoned):
            raise
        except OSError as error:
            raise from_os(error) from None
        except Exception as error:  # TensorStore raises ValueError, NotImplementedError and others, by status code
            raise from_tensorstore(error) from None


def _started_request(start: Request) -> Request:
    """Start a request now. The first call of the result returns its future; each later call starts a new request."""
    ahead = [start()]
    return lambda: ahead.pop() if ahead else start()


def _range(prefix: str) -> ts.KvStore.KeyRange:
    """Keys that begin with `prefix`: up to the prefix with its last byte plus one."""
    start = os.fsencode(prefix)
    return ts.KvStore.KeyRange(start, start[:-1] + bytes([start[-1] + 1])) if start else ts.KvStore.KeyRange()
