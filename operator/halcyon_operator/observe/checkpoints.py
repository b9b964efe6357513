"""Reads the HEAD of a checkpoint root, with the operator's own identity and never with a Secret of a run.

An unreadable root is not an error: the operator cannot mount volumes of pods, and a bucket may be open to the trainers
only. The operator then uses the trainers' reports, and the status shows it. An unchanged HEAD is neither transferred
nor decoded again. A large HEAD is decoded in a thread, so that it does not block the event loop or other runs."""

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError, NotModifiedError, PermissionDeniedError, UnauthenticatedError
from obstore.store import AzureStore, GCSStore, S3Store
from prometheus_client import Counter

from halcyon_api.checkpoint_documents import HEAD_KEY, DamagedDocument, decode_head
from halcyon_api.spec.checkpoint import CheckpointRoot, CheckpointSpec, azure_container, parse_root
from halcyon_operator.model.recent import Recent
from halcyon_operator.model.settings import endpoint_refusal
from halcyon_operator.model.views import HeadAbsent, HeadFound, HeadReading, HeadUnreachable

TIMEOUT_SECONDS = 5.0
MAX_HEAD_BYTES = 2**20
"""Enough for about three thousand checkpoints. The operator does not read a larger HEAD."""
SMALL_HEAD_BYTES = 16 * 2**10
"""A HEAD up to this size is decoded at once, in a few hundred microseconds; a larger one in a thread."""
MAX_ROOTS = 4096
"""Roots whose last HEAD is kept."""
MAX_STORES = 64
"""Clients that are kept.

One client serves all roots of a bucket: a new one takes a quarter of a megabyte and tens of milliseconds.
"""

_ERROR_CODE = re.compile(r"<Code>(\w{1,64})</Code>")
_STATUS = re.compile(r"status(?: code)?:? \(?([1-5][0-9]{2})\b")

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config

_Address = tuple[str, str | None, str | None]
"""Root, endpoint, region."""
_Bucket = tuple[str, str, str | None, str | None]
"""Scheme, name, endpoint, region."""


class Checkpoints:
    """Reads checkpoint roots.

    Args:
        reads: Counts reads by result.
        s3_endpoints: The endpoints that may be contacted. The root of a run with another endpoint is not read.
    """

    def __init__(self, reads: Counter, s3_endpoints: tuple[str, ...] = ()) -> None:
        self._reads = reads
        self._s3_endpoints = s3_endpoints
        self._stores: Recent[_Bucket, S3Store | GCSStore | AzureStore] = Recent(MAX_STORES)
        self._unchanged: Recent[_Address, tuple[str, HeadReading]] = Recent(MAX_ROOTS)
        """The last HEAD of each root, with its entity tag."""
        self._decoder = ThreadPoolExecutor(1, thread_name_prefix="halcyon-head-decoder")

    async def read(self, spec: CheckpointSpec) -> HeadReading:
        """The HEAD of a root. Never raises."""
        reading = await self._read(spec)
        self._reads.labels(_RESULTS[type(reading)]).inc()
        return reading

    async def _read(self, spec: CheckpointSpec) -> HeadReading:
        root = parse_root(spec.root)
        if root.scheme == "file":
            return HeadUnreachable("it is on a volume of the pods")
        if endpoint_refusal(spec.endpoint, self._s3_endpoints) is not None:
            return HeadUnreachable(f"endpoint {spec.endpoint} is not in the list objectStore.s3.endpoints of the chart")
        address = spec.root, spec.endpoint, spec.region
        tag, unchanged = self._unchanged.get(address, (None, None))
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                key = f"{root.path}/{HEAD_KEY}" if root.path else HEAD_KEY
                result = await obstore.get_async(
                    self._store(root, spec), key, options={"if_none_match": tag} if tag else None
                )
                if result.meta["size"] > MAX_HEAD_BYTES:
                    return _too_large(result.meta["size"])
                body = bytes(await result.bytes_async())
            reading = await self._decode(body)
            self._keep(address, result.meta["e_tag"], reading)
            return reading
        except NotModifiedError:
            return unchanged or HeadUnreachable("the store reports an unchanged HEAD, but none was read before")
        except FileNotFoundError as error:
            # Stores also answer 404 for an unknown bucket or user; only the code in the body distinguishes them.
            code = _ERROR_CODE.search(str(error))
            return HeadAbsent() if code is None or code[1] in _NO_HEAD else HeadUnreachable(_not_found(code[1]))
        except (PermissionDeniedError, UnauthenticatedError):
            return HeadUnreachable("the operator's own credentials do not open it")
        except TimeoutError:
            return HeadUnreachable(f"no answer within {TIMEOUT_SECONDS:g} s")
        except (BaseError, OSError, ValueError) as error:
            # The error text contains the store's answer, which may be a page of an internal service, so it is not
            # shown.
            return HeadUnreachable(_failed(error))

    async def _decode(self, body: bytes) -> HeadReading:
        if len(body) <= SMALL_HEAD_BYTES:
            return parse_head(body)
        return await asyncio.get_running_loop().run_in_executor(self._decoder, parse_head, body)

    def _keep(self, address: _Address, tag: str | None, reading: HeadReading) -> None:
        self._unchanged.pop(address, None)
        if tag:
            self._unchanged[address] = tag, reading

    def _store(self, root: CheckpointRoot, spec: CheckpointSpec) -> S3Store | GCSStore | AzureStore:
        """The client of a root's bucket, created once."""
        bucket = (root.scheme, root.bucket, spec.endpoint, spec.region)
        return self._stores.recall(bucket, lambda: self._open(root, spec))

    def _open(self, root: CheckpointRoot, spec: CheckpointSpec) -> S3Store | GCSStore | AzureStore:
        timeout = timedelta(seconds=TIMEOUT_SECONDS)
        plain = spec.endpoint is not None and spec.endpoint.startswith("http://")
        options: ClientConfig = {"timeout": timeout, "connect_timeout": timedelta(seconds=2), "allow_http": plain}
        retry: RetryConfig = {"max_retries": 1, "retry_timeout": timeout}
        if root.scheme == "gs":
            return GCSStore(root.bucket, client_options=options, retry_config=retry)
        if root.scheme == "az":
            container, account = azure_container(root.bucket, spec.endpoint)
            return AzureStore(container, **account, client_options=options, retry_config=retry)
        config: S3Config = {}
        if spec.endpoint is not None:
            config["endpoint"] = spec.endpoint
            config["region"] = spec.region or "us-east-1"
        elif spec.region is not None:
            config["region"] = spec.region
        return S3Store(root.bucket, config=config, client_options=options, retry_config=retry)


_RESULTS: dict[type[HeadReading], str] = {HeadFound: "found", HeadAbsent: "absent", HeadUnreachable: "unreachable"}


_NO_HEAD = ("NoSuchKey", "BlobNotFound")
_NOT_FOUND = {
    "ContainerNotFound": "there is no such container (ContainerNotFound)",
    "NoSuchBucket": "there is no such bucket (NoSuchBucket)",
    "NoSuchUpload": "there is no such object",
    "InvalidAccessKeyId": "the store does not know the operator's access key (InvalidAccessKeyId)",
    "XAdminUserNotFound": "the store does not know the operator's access key (XAdminUserNotFound)",
    "AccessDenied": "the operator's own credentials do not open it",
    "XMinioServerNotInitialized": "the store is starting",
}
"""Meanings of the codes that stores send with status 404. Any other code is untrusted text and is not shown."""


def _not_found(code: str) -> str:
    return _NOT_FOUND.get(code, "the store answered with HTTP status 404 and a code that S3 does not have")


def _failed(error: Exception) -> str:
    """A description of the error without text from the store."""
    if (status := _STATUS.search(str(error))) is not None and 300 <= int(status[1]) < 600:
        return f"the store answered with HTTP status {status[1]}"
    return f"the request failed ({type(error).__name__})"


def _too_large(size_bytes: int) -> HeadUnreachable:
    return HeadUnreachable(
        f"its HEAD has {size_bytes:,} bytes, and more than {MAX_HEAD_BYTES:,} are not read; keep fewer checkpoints"
    )


def parse_head(body: bytes) -> HeadReading:
    """The document in a HEAD. A damaged HEAD counts as unreachable; the trainer decides about it."""
    try:
        return HeadFound(decode_head(body))
    except DamagedDocument as damage:
        return HeadUnreachable(f"its HEAD is damaged: {damage}")
