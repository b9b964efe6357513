"""Decompresses files as streams of chunks, with a separate error for each kind of damage.

A gz file may have several members, a zst file several frames (pigz, bgzip and parallel writers make such files); all
are read. A file that ends inside one of them is truncated. That is an error, because the missing rows would otherwise
be dropped silently. ISA-L (`isal`) takes about half the time of zlib.

A decompressor returns all that some bytes become. So it gets few bytes at a time: 4 bytes of zstd may become 128 KiB.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import zstandard
from isal import isal_zlib

from halcyon.data.sources.failures import Unreadable, reason
from halcyon.host.limits.sizes import Expansion, TooLong

_GZIP_WINDOW = 31
_GZIP_ERROR = cast(type[Exception], isal_zlib.error)  # its stub calls it an instance
_MAX_ZSTD_WINDOW = 2**27
"""Bytes of text that a decompressor keeps to look back at: the most that the command ``zstd -d`` accepts by itself."""
_SLICE_BYTES = {"gzip": 2**15, "zstd": 2**11}
"""Compressed bytes that are decompressed at a time: they become at most 32 or 64 MiB."""


_PART_BYTES = 2**20
"""Most bytes of a part that is passed on."""


def is_compressed(uri: str) -> bool:
    """Whether a file's name says that it is compressed."""
    return uri.endswith((".gz", ".zst"))


def decompressed(uri: str, chunks: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """The content of a file, decompressed if its name ends with ``.gz`` or ``.zst``.

    Raises:
        Unreadable: It is truncated or damaged, or does not have the format of its ending.
    """
    if uri.endswith(".gz"):
        return _stream(uri, "gzip", chunks, lambda: isal_zlib.decompressobj(_GZIP_WINDOW), _GZIP_ERROR)
    if uri.endswith(".zst"):
        zstd = zstandard.ZstdDecompressor(max_window_size=_MAX_ZSTD_WINDOW)
        return _stream(uri, "zstd", chunks, zstd.decompressobj, zstandard.ZstdError)
    return iter(chunks)


def _stream(
    uri: str,
    kind: str,
    chunks: Iterable[bytes | memoryview],
    make: Callable[[], Any],
    failure: type[Exception],
) -> Iterator[bytes]:
    member: Any = None
    members = 0
    expansion = Expansion()
    for data in _slices(chunks, _SLICE_BYTES[kind]):
        read = len(data)
        while data:
            if member is None:
                if members and not data.strip(b"\0"):
                    break  # gzip allows trailing zeros
                member = make()
            try:
                out = member.decompress(data)
                expansion.add(read, len(out))
            except TooLong as error:
                raise Unreadable(
                    f"{uri}: {error}, as no usual text does; leave it out, or give it without compression"
                ) from None
            except failure as error:
                if "too much memory" in str(error):
                    what = f"looks back over more than {_MAX_ZSTD_WINDOW >> 20} MiB of text"
                    raise Unreadable(f"{uri} {what}; compress it again without --long and --ultra") from None
                raise Unreadable(
                    f"{uri} is damaged or not a {kind} file: {reason(error)}; copy it again or leave it out"
                ) from None
            for start in range(0, len(out), _PART_BYTES):
                yield out[start : start + _PART_BYTES]
            data, read = b"", 0
            if member.eof:
                data, member, members = member.unused_data, None, members + 1
    if member is not None or members == 0:
        raise Unreadable(f"{uri} is truncated: it ends inside a {kind} stream; copy it again or leave it out")


def _slices(chunks: Iterable[bytes | memoryview], size_bytes: int) -> Iterator[bytes]:
    for chunk in chunks:
        view = memoryview(chunk)
        for start in range(0, len(view), size_bytes):
            yield bytes(view[start : start + size_bytes])
