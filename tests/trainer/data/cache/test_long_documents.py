"""Documents larger than a shard: they are whole in one shard, wherever the build stopped."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halcyon.data.cache.ensure import Caches
from halcyon.data.cache.reader import Memory, TokenReader
from halcyon.data.cache.work import PIPE_TOKENS
from halcyon.host.errors import BadConfiguration
from halcyon.tokenizer import BYTE, load
from halcyon_api.status.sources import Built
from tests.trainer.data.cache.runs import files_below, jsonl, spec_of, whole_stream
from tests.trainer.support.datasets import ensure_caches

CACHE = {"shardTokens": 2**20, "workers": 1}
TEXTS = (
    "before",
    'Größe "und" Maß\n中\U0001f600\\' * 700_000,
    "",
    "between",
    "nothing but letters " * (PIPE_TOKENS // 16),
    "after",
)


class Stopped(Exception):
    """Raised to stop the build."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "c.jsonl"
    path.write_text("".join(f"{json.dumps({'text': text}, ensure_ascii=False)}\n" for text in TEXTS))
    (path.parent / "c.jsonl.gz").write_bytes(gzip.compress(path.read_bytes(), 1))
    return path


@pytest.fixture(scope="module")
def undisturbed(corpus: Path) -> Path:
    ensure_caches(spec_of(f"file://{corpus.parent}/root", [jsonl(corpus)], data__cache=CACHE), process="p")
    return corpus.parent / "root" / "data"


def expected() -> list[np.ndarray]:
    tokenizer = load(BYTE)
    return [np.concatenate([[tokenizer.bos_id], tokenizer.encode(text), [tokenizer.eos_id]]) for text in TEXTS if text]


def opened(corpus: Path, **source: Any) -> tuple[TokenReader, Caches, np.ndarray]:
    spec = spec_of(f"file://{corpus.parent}/root", [jsonl(corpus, **source)], data__cache=CACHE)
    store, caches = ensure_caches(spec, process="p")
    return TokenReader(store, "web", caches.ledgers["web"], Memory(1 << 20)), caches, whole_stream(store, caches)


def test_a_document_may_be_larger_than_a_shard(corpus: Path, undisturbed: Path) -> None:
    reader, caches, stream = opened(corpus)
    documents = expected()
    assert np.array_equal(stream, np.concatenate(documents))
    assert reader.document_ends().tolist() == np.cumsum([len(document) for document in documents]).tolist()
    assert reader.origins_of(np.arange(len(documents))).tolist() == [[0, row] for row, text in enumerate(TEXTS) if text]
    ledger = caches.ledgers["web"]
    assert max(shard.tokens for shard in ledger.shards) > 2 * CACHE["shardTokens"]
    assert (ledger.counts.rows, ledger.counts.documents, ledger.counts.size_bytes) == (
        6,
        5,
        sum(len(text.encode()) for text in TEXTS),
    )
    assert sum(shard.empty_rows for shard in ledger.shards) == 1


def test_a_compressed_file_gives_the_same_shards(corpus: Path, undisturbed: Path, tmp_path: Path) -> None:
    spec = spec_of(f"file://{tmp_path}/root", [jsonl(corpus.parent / "c.jsonl.gz")], data__cache=CACHE)
    _, caches = ensure_caches(spec, process="p")
    assert caches.ledgers["web"].shards == opened(corpus)[1].ledgers["web"].shards


def test_a_build_that_is_stopped_after_every_shard_changes_no_byte(
    corpus: Path, undisturbed: Path, tmp_path: Path
) -> None:
    spec = spec_of(f"file://{tmp_path}/root", [jsonl(corpus)], data__cache=CACHE)
    stops = 0

    def report(built: Built) -> None:
        if built.shards > stops and not built.finished:
            raise Stopped

    while True:
        try:
            ensure_caches(spec, process=f"p{stops}", report=report)
            break
        except Stopped:
            stops += 1
            assert stops < 20, "the build never ends"
    assert stops >= 2
    assert files_below(tmp_path / "root" / "data") == files_below(undisturbed)


@pytest.mark.slow
def test_worker_processes_pass_long_documents_in_a_file(
    corpus: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("halcyon.data.cache.build.SMALL_BYTES", 0)
    ensure_caches(spec_of(f"file://{tmp_path}/root", [jsonl(corpus)], data__cache=CACHE | {"workers": 2}), process="p")
    assert files_below(tmp_path / "root" / "data") == files_below(undisturbed)


def test_long_files_of_plain_text(tmp_path: Path) -> None:
    long = "Größe 中 \U0001f600 " * 500_000
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "1.txt").write_text("one")
    (tmp_path / "texts" / "2.txt").write_text(long)
    (tmp_path / "texts" / "3.txt.gz").write_bytes(gzip.compress(long.encode(), 1))
    (tmp_path / "texts" / "4.txt").write_bytes(b"the last")
    source = {"name": "web", "text": {"paths": [str(tmp_path / "texts")]}}
    store, caches = ensure_caches(spec_of(f"file://{tmp_path}/root", [source], data__cache=CACHE), process="p")
    contents = [b"one", long.encode(), long.encode(), b"the last"]
    parts = [part for content in contents for part in ([256], np.frombuffer(content, np.uint8), [257])]
    assert np.array_equal(whole_stream(store, caches), np.concatenate(parts))


def test_a_long_file_of_another_encoding_is_refused_although_a_token_is_a_byte(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a" * 2**23 + "Größe\n".encode("latin-1"))
    source = {"name": "web", "text": {"paths": [str(tmp_path / "a.txt")]}}
    with pytest.raises(
        BadConfiguration, match=r"a\.txt is not UTF-8 at byte \d+ \(0xf6\): 2 of its [\d,]+ bytes would"
    ):
        ensure_caches(spec_of(f"file://{tmp_path}/root", [source], data__cache=CACHE), process="p")
