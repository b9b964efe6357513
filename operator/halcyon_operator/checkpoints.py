"""Reads the HEAD of a checkpoint root, with the operator's own identity and never with a Secret of a run.

A root that cannot be read is no error: a volume is out of reach by its nature, and a bucket may be open to the trainers only. The operator
then goes by the trainers' reports, and the status says so. Such a verdict is kept for a while, so that an address that swallows requests
does not hold up every look at the run.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import GCSStore, S3Store

from halcyon_api.checkpoint_documents import HEAD_KEY, DamagedDocument, decode_head
from halcyon_api.spec.checkpoint import CheckpointRoot, CheckpointSpec, parse_root
from halcyon_operator.metrics import Metrics
from halcyon_operator.plain import text
from halcyon_operator.views import HeadAbsent, HeadFound, HeadReading, HeadUnreachable

TIMEOUT_SECONDS = 5.0
UNREACHABLE_SECONDS = 30.0
"""How long a root counts as out of reach before it is tried again."""
MAX_HEAD_BYTES = 4 * 2**20
MAX_ROOTS = 4096
"""Of how many roots the last reading is kept."""
MAX_STORES = 64
"""How many clients are kept. One serves all roots of a bucket: a client takes a quarter of a megabyte and tens of milliseconds."""

_ERROR_CODE = re.compile(r"<Code>(\w{1,64})</Code>")

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config

_Address = tuple[str, str | None, str | None]
"""Root, endpoint, region."""
_Bucket = tuple[str, str, str | None, str | None]
"""Scheme, name, endpoint, region."""


@dataclass(frozen=True)
class Known:
    """A reading and when it was made."""

    reading: HeadReading
    at: float


class Checkpoints:
    """Reads checkpoint roots.

    Args:
        metrics: Where reads are counted.
        clock: Seconds, monotonic.
        s3_endpoints: The only endpoints that may be contacted; empty: any.
        s3_anonymous: Send unsigned S3 requests.
        file_roots: Directories under which file:// roots may be read.
    """

    def __init__(
        self,
        metrics: Metrics,
        clock: Callable[[], float],
        s3_endpoints: tuple[str, ...] = (),
        s3_anonymous: bool = False,
        file_roots: tuple[str, ...] = (),
    ) -> None:
        self._metrics = metrics
        self._clock = clock
        self._s3_endpoints = frozenset(endpoint.rstrip("/") for endpoint in s3_endpoints)
        self._s3_anonymous = s3_anonymous
        self._file_roots = tuple(Path(root) for root in file_roots)
        self._stores: OrderedDict[_Bucket, S3Store | GCSStore] = OrderedDict()
        self._known: OrderedDict[_Address, Known] = OrderedDict()

    async def read(self, spec: CheckpointSpec, max_age_seconds: float = 0.0) -> HeadReading:
        """The HEAD of a root, or a reading of it not older than some seconds. Never raises."""
        address = (spec.root, spec.endpoint, spec.region)
        known = self._known.get(address)
        if known is not None:
            age = UNREACHABLE_SECONDS if isinstance(known.reading, HeadUnreachable) else max_age_seconds
            if self._clock() - known.at < age:
                return known.reading
        reading = await self._read(address, spec)
        self._metrics.head_reads.labels(_RESULTS[type(reading)]).inc()
        self._known[address] = Known(reading, self._clock())
        self._known.move_to_end(address)
        while len(self._known) > MAX_ROOTS:
            self._known.popitem(last=False)
        return reading

    async def _read(self, address: _Address, spec: CheckpointSpec) -> HeadReading:
        root = parse_root(spec.root)
        if root.scheme == "file":
            return await asyncio.to_thread(self._read_file, root)
        if spec.endpoint is not None and self._s3_endpoints and spec.endpoint.rstrip("/") not in self._s3_endpoints:
            return HeadUnreachable(f"endpoint {spec.endpoint} is not among those the operator may contact")
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                result = await obstore.get_async(self._store(root, spec), f"{root.path}/{HEAD_KEY}" if root.path else HEAD_KEY)
                if result.meta["size"] > MAX_HEAD_BYTES:
                    return _too_large(result.meta["size"])
                return parse_head(bytes(await result.bytes_async()))
        except FileNotFoundError as error:
            # Stores also answer 404 when there is no such bucket or no such user; only the code in the body tells.
            code = _ERROR_CODE.search(str(error))
            return HeadAbsent() if code is None or code[1] == "NoSuchKey" else HeadUnreachable(f"the store answered {code[1]}")
        except (PermissionDeniedError, UnauthenticatedError):
            return HeadUnreachable("the operator's own credentials do not open it")
        except TimeoutError:
            return HeadUnreachable(f"no answer within {TIMEOUT_SECONDS:g} s")
        except (BaseError, OSError, ValueError) as error:
            return HeadUnreachable(text(str(error), 200) or type(error).__name__)

    def _read_file(self, root: CheckpointRoot) -> HeadReading:
        path = Path(root.path)
        if not any(path.is_relative_to(allowed) for allowed in self._file_roots):
            return HeadUnreachable("it lies on a volume of the pods")
        try:
            document = path.joinpath(HEAD_KEY)
            return (
                parse_head(document.read_bytes()) if document.stat().st_size <= MAX_HEAD_BYTES else HeadUnreachable("its HEAD is too large")
            )
        except FileNotFoundError:
            return HeadAbsent()
        except OSError as error:
            return HeadUnreachable(f"{error.strerror}")

    def _store(self, root: CheckpointRoot, spec: CheckpointSpec) -> S3Store | GCSStore:
        """The client of a root's bucket, made once."""
        bucket = (root.scheme, root.bucket, spec.endpoint, spec.region)
        if bucket not in self._stores:
            self._stores[bucket] = self._open(root, spec)
            while len(self._stores) > MAX_STORES:
                self._stores.popitem(last=False)
        self._stores.move_to_end(bucket)
        return self._stores[bucket]

    def _open(self, root: CheckpointRoot, spec: CheckpointSpec) -> S3Store | GCSStore:
        timeout = timedelta(seconds=TIMEOUT_SECONDS)
        plain = spec.endpoint is not None and spec.endpoint.startswith("http://")
        options: ClientConfig = {"timeout": timeout, "connect_timeout": timedelta(seconds=2), "allow_http": plain}
        retry: RetryConfig = {"max_retries": 1, "retry_timeout": timeout}
        if root.scheme == "gs":
            return GCSStore(root.bucket, client_options=options, retry_config=retry)
        config: S3Config = {"skip_signature": self._s3_anonymous}
        if spec.endpoint is not None:
            config["endpoint"] = spec.endpoint
            config["region"] = spec.region or "us-east-1"
        elif spec.region is not None:
            config["region"] = spec.region
        return S3Store(root.bucket, config=config, client_options=options, retry_config=retry)


_RESULTS: dict[type[HeadReading], str] = {HeadFound: "found", HeadAbsent: "absent", HeadUnreachable: "unreachable"}


def _too_large(size_bytes: int) -> HeadUnreachable:
    return HeadUnreachable(f"its HEAD has {size_bytes} bytes")


def parse_head(body: bytes) -> HeadReading:
    """The document in a HEAD. A damaged one is the trainer's to judge."""
    try:
        return HeadFound(decode_head(body))
    except DamagedDocument as damage:
        return HeadUnreachable(f"its HEAD is damaged: {damage}")
