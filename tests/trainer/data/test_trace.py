"""A token's document is found from the shards around the token alone, and is the same as from the whole source."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest

from halcyon.data.cache import ensure
from halcyon.data.cache.reader import Blocks, Memory, TokenReader
from halcyon.data.cache.shards import ENDS, ORIGINS
from halcyon.data.layout.spans import Spans, document_spans, split_at_documents
from halcyon.data.open import dataset_of
from halcyon.data.sources import pieces
from halcyon.data.trace import Excerpt, trace
from halcyon_api.training_run import TrainingRunSpec
from tests.trainer.data.cache.runs import jsonl, spec_of, write_jsonl
from tests.trainer.support.datasets import ensure_caches


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainingRunSpec:
    """A run with many shards of a few documents each."""
    monkeypatch.setattr(ensure, "pieces", functools.partial(pieces, target_bytes=500))
    corpora = [write_jsonl(tmp_path / f"{number}.jsonl", 120, seed=number) for number in range(2)]
    source = {"name": "web", "jsonl": {"paths": [str(path) for path in corpora]}}
    return spec_of(f"file://{tmp_path}/root", [source], data__cache={"workers": 1, "shardTokens": 1024})


class Watched(TokenReader):
    """Records which files of which shards are opened."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.opened: list[tuple[int, str]] = []

    def _open(self, index: int, kind: str) -> Blocks:
        self.opened.append((index, kind))
        return super()._open(index, kind)


def test_any_part_of_the_stream_has_the_documents_of_the_whole(spec: TrainingRunSpec) -> None:
    store, caches = ensure_caches(spec, process="p")
    ledger = caches.ledgers["web"]
    assert len(ledger.shards) > 15
    whole = TokenReader(store, "web", ledger, Memory(1 << 20))
    all_ends, all_origins = whole.document_ends(), whole.origins_of(np.arange(ledger.counts.documents))
    numbers = np.random.default_rng(0)
    starts = [0, ledger.counts.tokens - 1, *numbers.integers(0, ledger.counts.tokens, 100).tolist()]
    for start in starts:
        length = int(min(numbers.choice([1, 5, 40, 2000]), ledger.counts.tokens - start))
        reader = Watched(store, "web", ledger, Memory(1 << 20))
        first, ends = reader.documents_around(start, start + length)
        span = Spans(np.zeros(1, np.int32), np.array([start]), np.array([length], np.int32))
        (near, near_documents), (far, far_documents) = (
            split_at_documents(span, ends),
            split_at_documents(span, all_ends),
        )
        assert np.array_equal(first + near_documents, far_documents)
        assert np.array_equal(near.start, far.start)
        assert np.array_equal(near.length, far.length)
        assert np.array_equal(document_spans(ends, near_documents)[0], document_spans(all_ends, far_documents)[0])
        assert np.array_equal(reader.origins_of(far_documents), all_origins[far_documents])
        assert {kind for _, kind in reader.opened} == {ENDS, ORIGINS}
        assert len({index for index, _ in reader.opened}) <= 4 + length // 1000, "no other shard may be opened"


def test_the_rows_of_a_step_are_traced(spec: TrainingRunSpec) -> None:
    store, caches = ensure_caches(spec, process="p")
    dataset = dataset_of(spec, store, caches)
    ledger = caches.ledgers["web"]
    reader = TokenReader(store, "web", ledger, Memory(1 << 20))
    ends, origins = reader.document_ends(), reader.origins_of(np.arange(ledger.counts.documents))
    rows = dataset.train_rows(7)
    for row, excerpts in enumerate(trace(dataset, rows, caches.ledgers)):
        start = int(rows.sequence[row]) * 17
        expected: list[Excerpt] = []
        for document in range(len(ends)):
            begin, end = int(ends[document - 1]) if document else 0, int(ends[document])
            low, high = max(start, begin), min(start + 17, end)
            if low < high:
                file, number = origins[document].tolist()
                expected.append(Excerpt(document, ledger.files[file].uri, number, low - start, low - begin, high - low))
        assert excerpts == expected
        assert sum(excerpt.tokens for excerpt in excerpts) == 17


def test_documents_of_several_shards_are_found_from_each_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some shards hold no end of a document."""
    monkeypatch.setattr(ensure, "pieces", functools.partial(pieces, target_bytes=500))
    store, caches = ensure_caches(
        spec_of(
            f"file://{tmp_path}/root",
            [jsonl(write_jsonl(tmp_path / "c.jsonl", 100))],
            data__cache={"workers": 1, "shardTokens": 1024},
        ),
        process="p",
    )
    ledger = caches.ledgers["web"]
    reader = TokenReader(store, "web", ledger, Memory(1 << 20))
    ends = reader.document_ends()
    # Merges the documents of three shards in the middle into one that ends in the fourth.
    first = len(ledger.shards) // 2
    joined = [
        shard.model_copy(update={"documents": 0}) if first <= at < first + 3 else shard
        for at, shard in enumerate(ledger.shards)
    ]
    counts = [shard.documents for shard in ledger.shards]
    begin, end = sum(counts[:first]), sum(counts[: first + 3])
    long = TokenReader(store, "web", ledger.model_copy(update={"shards": tuple(joined)}), Memory(1 << 20))
    expected = np.delete(ends, np.arange(begin, end))
    for token in range(int(ends[begin - 2]), int(ends[end + 2]), 7):
        number, found = long.documents_around(token, token + 1)
        assert number + np.searchsorted(found, token, side="right") == np.searchsorted(expected, token, side="right")
        assert np.array_equal(found, expected[number : number + len(found)])
        assert found[-1] > token, "shards must be opened up to the end of the document"
