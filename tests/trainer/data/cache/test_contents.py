"""The hash of a cache's contents depends only on the data, and not on the sizes of the shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from halcyon.data.cache import ensure
from halcyon.data.cache.ledger import LEDGER_KEY, Ledger, encode
from halcyon_api.status.sources import Built
from tests.trainer.data.cache.runs import jsonl, ledger_of, spec_of, write_jsonl
from tests.trainer.support.datasets import ensure_caches, open_dataset


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = ensure.pieces
    monkeypatch.setattr(
        ensure, "pieces", lambda *arguments, **options: pieces(*arguments, **options, target_bytes=2048)
    )


def build(root: Path, corpus: Path, shard_tokens: int, **more: Any) -> Ledger:
    spec = spec_of(f"file://{root}", [jsonl(corpus)], data__cache={"shardTokens": shard_tokens})
    ensure_caches(spec, process="p", **more)
    return ledger_of(f"file://{root}")


def test_other_shards_of_the_same_text_have_the_same_contents(tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "c.jsonl", 300)
    small, large = build(tmp_path / "small", corpus, 1024), build(tmp_path / "large", corpus, 9000)
    assert len(small.shards) > len(large.shards) > 1
    assert small.content_sha256 == large.content_sha256
    fingerprints = {
        open_dataset(
            spec_of(f"file://{tmp_path}/{name}", [jsonl(corpus)], data__cache={"shardTokens": tokens})
        ).fingerprint
        for name, tokens in (("small", 1024), ("large", 9000))
    }
    assert len(fingerprints) == 1, "so a run continues with a cache that was built again in other shards"


def test_another_text_has_other_contents(tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "c.jsonl", 300)
    before = build(tmp_path / "one", corpus, 1024)
    lines = corpus.read_text().splitlines()
    longest = max(range(300), key=lambda row: len(lines[row]))
    lines[longest] = lines[longest].replace("w", "v", 1)
    corpus.write_text("\n".join(lines) + "\n")
    assert build(tmp_path / "two", corpus, 1024).content_sha256 != before.content_sha256


def test_a_build_that_was_stopped_has_the_same_contents(tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "c.jsonl", 300)
    whole = build(tmp_path / "whole", corpus, 1024)

    class Stopped(Exception):
        pass

    def stop(built: Built) -> None:
        if built.shards == 3:
            raise Stopped

    with pytest.raises(Stopped):
        build(tmp_path / "stopped", corpus, 1024, report=stop)
    assert build(tmp_path / "stopped", corpus, 5000).content_sha256 == whole.content_sha256


def test_a_cache_whose_ledger_is_written_in_other_bytes_can_be_continued(tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "c.jsonl", 300)
    ledger = build(tmp_path / "root", corpus, 1024)
    path = tmp_path / "root" / "data" / "web" / LEDGER_KEY
    path.write_bytes(encode(ledger.model_copy(update={"shards": ledger.shards[:2], "finished": False})) + b"\n")
    assert build(tmp_path / "root", corpus, 1024) == ledger
