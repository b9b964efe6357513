"""Reads the bytes of a source's file in ranges, and checks them against the listing.

Every range is a separate request. So a broken connection costs one range, and several ranges of a file in a store are
fetched in parallel. Each answer has the version of the file, so a file that is replaced during the read is detected,
and two versions are never mixed. A range that cannot be read is retried once after a pause, because the file may be
replaced at this moment or a mount may return. Then it is an error.
"""

import errno
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from obstore.exceptions import BaseError

from halcyon.data.sources import remote
from halcyon.data.sources.access import Access, SourceFile, hub_endpoint, parse_address
from halcyon.data.sources.failures import Replaced, Unreachable, Unreadable, is_outage, reason, unreadable
from halcyon.data.sources.remote import look_up
from halcyon.host.errors import DataUnreachable
from halcyon_api.plain_files import require_file

_LOCAL_RANGE_BYTES = 2**20
_REMOTE_RANGE_BYTES = 8 * 2**20
_PARALLEL_READS = 8
"""Parallel requests for one file."""

_HUB_MODEL = re.compile(r"hf://(?!datasets/)([^/@]+/[^/@]+)(?:@([^/]+))?/(.+)")


def stat_file(path: str) -> SourceFile:
    """The current state of a local file.

    Raises:
        OSError: It is not there, or is no file.
    """
    require_file(Path(path))
    return _as_listed(path, Path(path).stat())


def read_range(
    file: SourceFile, start: int, end: int, access: Access, *, pause: Callable[[float], None] = time.sleep
) -> bytes | memoryview:
    """The bytes [start, end) of a file.

    Raises:
        Unreadable: The file does not exist any more, or differs from the listing; `Unreachable`: the error may be
            temporary.
    """
    address = parse_address(file.uri)
    for last_round in (False, True):
        try:
            if address.scheme == "file":
                return _read_local(file, start, end)
            return remote.read_range(file, address, start, end, access)
        except (OSError, BaseError) as error:
            if last_round:
                raise unreadable(_sentence(file, error), error) from None
        pause(access.pause_seconds)
    raise AssertionError("the last round returns or raises")


def read_chunks(file: SourceFile, access: Access) -> Iterator[bytes | memoryview]:
    """All bytes of a file, in order, in chunks whose size depends on the kind of store.

    Raises:
        Unreadable: As `read_range`.
    """
    address = parse_address(file.uri)
    if address.scheme == "file":
        yield from read_between(file, 0, file.size_bytes, access)
        if file.size_bytes == 0:
            read_range(file, 0, 0, access)
        return
    if not remote.serves_ranges(file, address, access):
        yield from remote.read_stream(file, address, access)
        return
    starts = iter(range(0, file.size_bytes, _REMOTE_RANGE_BYTES))
    with ThreadPoolExecutor(_PARALLEL_READS, thread_name_prefix="source") as pool:
        under_way: deque[Future[bytes | memoryview]] = deque()
        try:
            while True:
                while len(under_way) < _PARALLEL_READS and (start := next(starts, None)) is not None:
                    under_way.append(
                        pool.submit(read_range, file, start, min(start + _REMOTE_RANGE_BYTES, file.size_bytes), access)
                    )
                if not under_way:
                    return
                yield under_way.popleft().result()
        finally:
            for future in under_way:
                future.cancel()


def read_between(file: SourceFile, start: int, end: int, access: Access) -> Iterator[bytes]:
    """The bytes [start, end) of a local file, in chunks.

    Raises:
        Unreadable: As `read_range`.
    """
    for first in range(start, end, _LOCAL_RANGE_BYTES):
        yield bytes(read_range(file, first, min(first + _LOCAL_RANGE_BYTES, end), access))


def _read_local(file: SourceFile, start: int, end: int) -> bytes:
    require_file(Path(file.uri))
    with Path(file.uri).open("rb") as stream:
        stream.seek(start)
        data = stream.read(end - start)
        # Checked after the read, to detect writes during the read.
        grown = not file.size_bytes and stream.read(1)
        if grown or len(data) < end - start or _as_listed(file.uri, os.fstat(stream.fileno())) != file:
            raise Replaced(
                f"{file.uri} changed after it was listed; leave the files alone while they are read, and start again"
            )
    return data


def _as_listed(path: str, status: os.stat_result) -> SourceFile:
    return SourceFile(path, status.st_size, str(status.st_mtime_ns))


def _sentence(file: SourceFile, error: BaseException) -> str:
    if isinstance(error, FileNotFoundError) and not is_outage(error):
        return f"{file.uri} was listed and is gone; put it back, or start again without it"
    return f"{file.uri} cannot be read: {reason(error)}; make it readable or leave it out"


def fetch_file(uri: str, access: Access, *, most_bytes: int | None = None) -> bytes:
    """The content of a file.

    Raises:
        OSError: The file does not exist, cannot be read, or has more than `most_bytes`.
        DataUnreachable: Its store does not answer, or denies access.
    """
    model = _HUB_MODEL.fullmatch(uri)
    if model is not None:
        uri = f"{hub_endpoint(os.environ)}/{model[1]}/resolve/{model[2] or 'main'}/{model[3]}"
    try:
        address = parse_address(uri)
        file: SourceFile | None = stat_file(address.path) if address.scheme == "file" else look_up(address, access)
        if file is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), uri)
        if most_bytes is not None and file.size_bytes > most_bytes:
            raise OSError(errno.EFBIG, f"{file.size_bytes:,} bytes; the limit is {most_bytes:,}", uri)
        return b"".join(bytes(chunk) for chunk in read_chunks(file, access))
    except Unreachable as failure:
        raise DataUnreachable(str(failure)) from failure
    except Unreadable as failure:
        raise OSError(str(failure)) from failure
