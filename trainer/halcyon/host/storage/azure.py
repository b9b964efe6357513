"""A container of Azure Blob Storage with the interface of TensorStore's key-value drivers, which have none for it.

The requests are those of `obstore`. A generation is a blob's entity tag, and a condition is sent to the server
(``If-Match``, ``If-None-Match``), so one of several writes succeeds.
"""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from datetime import timedelta
from threading import BoundedSemaphore
from typing import TYPE_CHECKING, Any

import obstore
import tensorstore as ts
from obstore import exceptions
from obstore.store import AzureStore

from halcyon.host.storage.failures import StoreFailure, clean
from halcyon.host.storage.files import begin
from halcyon_api.spec.checkpoint import CheckpointSpec, azure_container, parse_root

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

_ABSENT = b"absent"
"""The generation of a key that does not exist."""
_AT_A_TIME = 64
_OUT_OF_RANGE = "InvalidRange"


_Read = ts.KvStore.ReadResult
_Stamp = ts.KvStore.TimestampedStorageGeneration


class AzureContainer:
    """The blobs below a root. Each request begins at once and gives a future.

    Args:
        checkpoint: Root and endpoint.
        timeout_seconds: Longest time of one request, with its retries.
    """

    def __init__(self, checkpoint: CheckpointSpec, timeout_seconds: float) -> None:
        root, timeout = parse_root(checkpoint.root), timedelta(seconds=timeout_seconds)
        plain = (checkpoint.endpoint or "").startswith("http://")
        options: ClientConfig = {"timeout": timeout, "connect_timeout": timedelta(seconds=10), "allow_http": plain}
        retry: RetryConfig = {"max_retries": 12, "retry_timeout": timedelta(seconds=min(timeout_seconds, 60.0))}
        container, config = azure_container(root.bucket, checkpoint.endpoint)
        self._store = AzureStore(container, prefix=root.path, **config, client_options=options, retry_config=retry)
        self._free = BoundedSemaphore(_AT_A_TIME)

    def read(self, key: str, byte_range: slice | None = None) -> Future[Any]:
        """The value of a key, or a range of it; a missing key is no error."""
        return self._begin(lambda: self._read(key, byte_range))

    def write(self, key: str, value: bytes | None, if_equal: bytes | None = None) -> Future[Any]:
        """Write or delete a key. With a condition that does not hold, the answer has an empty generation."""
        return self._begin(lambda: self._write(key, value, if_equal))

    def list(self, keys: ts.KvStore.KeyRange) -> Future[Any]:
        """The keys of a range."""
        return self._begin(lambda: [os.fsencode(key) for key in self._list(keys)])

    def delete_range(self, keys: ts.KvStore.KeyRange) -> Future[Any]:
        """Delete the keys of a range."""

        def delete() -> None:
            if found := list(self._list(keys)):
                obstore.delete(self._store, found)

        return self._begin(delete)

    def _begin(self, request: Callable[[], Any]) -> Future[Any]:
        """The answer to a request."""
        return begin(lambda: self._answer(request), name="azure-request")

    def _answer(self, request: Callable[[], Any]) -> Any:
        try:
            with self._free:
                return request()
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
            code, said = "PERMISSION_DENIED", error
        except FileNotFoundError as error:
            code, said = "NOT_FOUND", error
        except (exceptions.BaseError, ValueError) as error:
            code, said = "OUT_OF_RANGE" if _OUT_OF_RANGE in str(error) else "UNAVAILABLE", error
        raise StoreFailure(code, clean(str(said)))

    def _read(self, key: str, byte_range: slice | None) -> _Read:
        options: dict[str, Any] = {}
        if byte_range is not None:
            ends = (byte_range.start, byte_range.stop)
            options["range"] = {"offset": byte_range.start} if byte_range.stop is None else ends
        try:
            found = obstore.get(self._store, key, options=options)  # type: ignore[arg-type]
            return _Read("value", bytes(found.bytes()), _Stamp((found.meta["e_tag"] or "").encode()))
        except FileNotFoundError:
            return _Read("missing", stamp=_Stamp(_ABSENT))

    def _write(self, key: str, value: bytes | None, if_equal: bytes | None) -> _Stamp:
        if value is None:
            with suppress(FileNotFoundError):
                obstore.delete(self._store, key)
            return _Stamp(_ABSENT)
        try:
            if if_equal is None:
                written = obstore.put(self._store, key, value)
            else:
                mode: Any = "create" if if_equal == _ABSENT else {"e_tag": if_equal.decode()}
                written = obstore.put(self._store, key, value, mode=mode)
        except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
            return _Stamp(b"")
        return _Stamp((written["e_tag"] or "").encode())

    def _list(self, keys: ts.KvStore.KeyRange) -> Iterable[str]:
        low, high = os.fsdecode(keys.inclusive_min), os.fsdecode(keys.exclusive_max)
        # The store lists whole folders.
        common = low if high == low[:-1] + chr(ord(low[-1:] or " ") + 1) else os.path.commonprefix([low, high])  # noqa: RUF071 - of texts
        folder = common.rpartition("/")[0] if high else ""
        for batch in obstore.list(self._store, prefix=folder or None):
            for blob in batch:
                if low <= blob["path"] and (not high or blob["path"] < high):
                    yield blob["path"]
