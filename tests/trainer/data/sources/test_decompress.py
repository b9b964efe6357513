"""Compressed files are read in parts of bounded size, and one that grows without bound is a sentence."""

from __future__ import annotations

import gzip
import itertools
import random

import pytest
import zstandard

from halcyon.data.sources.decompress import decompressed
from halcyon.data.sources.failures import Unreadable
from halcyon.host.limits import sizes

_PART_BYTES = 2**20


def _repeated(size_bytes: int) -> bytes:
    compressor = zstandard.ZstdCompressor().compressobj()
    parts = (compressor.compress(b"a" * 2**20) for _ in range(size_bytes >> 20))
    return b"".join([*parts, compressor.flush()])


def test_a_small_file_that_becomes_gigabytes_is_cut_off() -> None:
    bomb = _repeated(2**31)
    assert len(bomb) < 100_000
    parts: list[int] = []
    with pytest.raises(
        Unreadable,
        match=r"^bomb.jsonl.zst: its first [\d,]+ bytes become more than \d+ MiB, as no usual text does; leave",
    ):
        parts.extend(map(len, decompressed("bomb.jsonl.zst", [bomb])))
    assert max(parts) <= _PART_BYTES
    assert sum(parts) < 2**29


def test_a_part_is_bounded_however_the_file_arrives() -> None:
    bomb = _repeated(2**28)
    assert max(len(part) for part in itertools.islice(decompressed("bomb.zst", [bomb]), 4)) <= _PART_BYTES


def test_repetitive_text_within_the_budget_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "FREE_BYTES", 0)
    text = b"".join(b'{"text": "%d"}\n' % random.Random(number).randrange(1000) for number in range(10_000)) * 10
    for name, packed in (("a.gz", gzip.compress(text)), ("a.zst", zstandard.compress(text))):
        assert b"".join(decompressed(name, [packed])) == text
    zeros = bytes(2**24)
    assert b"".join(decompressed("a.gz", [gzip.compress(zeros)])) == zeros


def test_a_file_that_looks_back_too_far_names_the_options() -> None:
    settings = zstandard.ZstdCompressionParameters(window_log=30, enable_ldm=True)
    compressor = zstandard.ZstdCompressor(compression_params=settings).compressobj()
    packed = compressor.compress(random.Random(0).randbytes(2**16)) + compressor.flush()
    with pytest.raises(
        Unreadable, match=r"looks back over more than 128 MiB of text; compress it again without --long and --ultra$"
    ):
        list(decompressed("a.zst", [packed]))
