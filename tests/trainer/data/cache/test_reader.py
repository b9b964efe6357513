"""Any span of the stream is read as it was written, from a folder and from an object store; else there is an error."""

from __future__ import annotations

import secrets
from pathlib import Path

import numpy as np
import pytest

from halcyon.data.cache import arrays
from halcyon.data.cache.ensure import Caches
from halcyon.data.cache.reader import Memory, TokenReader
from halcyon.data.cache.shards import BLOCK_BYTES
from halcyon.host.errors import DamagedData
from halcyon.host.storage.store import Store
from tests.trainer.checkpoint.roots import Gateway, gateway
from tests.trainer.data.cache.runs import jsonl, spec_of, whole_stream, write_jsonl
from tests.trainer.support.datasets import ensure_caches

__all__ = ["gateway"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("corpus") / "c.jsonl", 4000)


def local(tmp_path: Path, corpus: Path) -> tuple[Store, Caches]:
    return ensure_caches(spec_of(f"file://{tmp_path}/root", [jsonl(corpus)]), process="p")


def some_spans(tokens: int, count: int = 200) -> tuple[np.ndarray, np.ndarray]:
    numbers = np.random.default_rng(3)
    starts = numbers.integers(0, tokens - 1, count)
    return starts, np.minimum(numbers.integers(1, 40_000, count), tokens - starts)


def check(store: Store, caches: Caches, memory: Memory) -> None:
    stream = whole_stream(store, caches)
    reader = TokenReader(store, "web", caches.ledgers["web"], memory)
    starts, lengths = some_spans(len(stream))
    expected = np.concatenate([stream[start : start + length] for start, length in zip(starts, lengths, strict=True)])
    assert np.array_equal(reader.gather(starts, lengths), expected)
    ends = reader.document_ends()
    begins = [
        np.isin(np.arange(start, start + length), ends) & (np.arange(length) > 0)
        for start, length in zip(starts, lengths, strict=True)
    ]
    assert np.array_equal(reader.gather_begins(starts, lengths), np.concatenate(begins))
    assert sum(map(np.count_nonzero, begins)) > len(ends) > 100


def test_spans_of_a_folder(tmp_path: Path, corpus: Path) -> None:
    store, caches = local(tmp_path, corpus)
    assert caches.ledgers["web"].counts.tokens * 2 > 8 * BLOCK_BYTES, "several blocks"
    check(store, caches, Memory(1 << 20))


@pytest.mark.parametrize("memory_bytes", [1, 3 * BLOCK_BYTES, 1 << 30])
def test_spans_of_an_object_store_in_bounded_memory(
    tmp_path: Path, corpus: Path, gateway: Gateway, monkeypatch: pytest.MonkeyPatch, memory_bytes: int
) -> None:
    for name, value in gateway.environment.items():
        monkeypatch.setenv(name, value)
    bucket = f"b{secrets.token_hex(4)}"
    (gateway.folder / bucket).mkdir()
    store, caches = ensure_caches(
        spec_of(f"s3://{bucket}/run", [jsonl(corpus)], checkpoint={"endpoint": gateway.endpoint}), process="p"
    )
    memory = Memory(memory_bytes)
    check(store, caches, memory)
    assert len(memory._blocks) <= max(1, memory_bytes // BLOCK_BYTES)
    there, here = local(tmp_path, corpus)
    assert np.array_equal(whole_stream(store, caches), whole_stream(there, here))


@pytest.mark.parametrize("name", ["tokens", "ends", "origins"])
def test_a_flipped_bit_is_never_silent(tmp_path: Path, corpus: Path, name: str) -> None:
    store, caches = local(tmp_path, corpus)
    (path,) = (tmp_path / "root" / "data" / "web" / "shards").glob(f"*/{name}")
    content = bytearray(path.read_bytes())
    place = len(content) // 2
    content[place] ^= 4
    path.write_bytes(content)
    reader = TokenReader(store, "web", caches.ledgers["web"], Memory(1 << 20))
    reads = {
        "tokens": lambda: reader.gather(np.array([place // 2]), np.array([2])),
        "ends": reader.document_ends,
        "origins": lambda: reader.origins_of(np.arange(caches.ledgers["web"].counts.documents)),
    }
    with pytest.raises(
        DamagedData, match=rf"web/shards/.*{name} of the token cache is damaged in block \d+; delete the cache"
    ):
        reads[name]()
    if name == "tokens":
        assert len(reader.gather(np.array([0]), np.array([10]))) == 10, "valid blocks can be read"


def test_a_truncated_or_missing_file_is_reported(tmp_path: Path, corpus: Path) -> None:
    store, caches = local(tmp_path, corpus)
    (path,) = (tmp_path / "root" / "data" / "web" / "shards").glob("*/tokens")
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    for _ in range(2):
        with pytest.raises(DamagedData, match="delete the cache and build it again"):
            TokenReader(store, "web", caches.ledgers["web"], Memory(1)).gather(np.array([0]), np.array([1]))
        path.unlink(missing_ok=True)


def test_ends_can_be_mapped_from_a_disk(tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, caches = local(tmp_path, corpus)
    reader = TokenReader(store, "web", caches.ledgers["web"], Memory(1 << 20))
    ends = reader.document_ends()
    monkeypatch.setattr(arrays, "LARGE_BYTES", 0)
    mapped = TokenReader(store, "web", caches.ledgers["web"], Memory(1 << 20))
    assert isinstance(mapped.document_ends().base, np.memmap)
    assert np.array_equal(mapped.document_ends(), ends)
