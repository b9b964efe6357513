"""A full disk ends a build with one sentence.

Committed shards stay, partial files do not count, and a later build continues.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from halcyon.data.cache import ensure
from halcyon.host.errors import TrainerExit
from tests.trainer.checkpoint.disks import small_disk, small_disk_free
from tests.trainer.data.cache.runs import files_below, jsonl, ledger_of, spec_of, write_jsonl
from tests.trainer.support.datasets import ensure_caches

__all__ = ["small_disk"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to mount")
def test_a_build_onto_a_full_disk(small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = ensure.pieces
    monkeypatch.setattr(
        ensure, "pieces", lambda *arguments, **options: pieces(*arguments, **options, target_bytes=4096)
    )
    corpus = write_jsonl(tmp_path / "c.jsonl", 400)
    root = f"file://{small_disk}/root"
    spec = spec_of(root, [jsonl(corpus)], data__cache={"shardTokens": 4096})
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * (small_disk_free(small_disk) - 64 * 1024))  # room for two or three shards
    with pytest.raises(
        TrainerExit, match=r"^spec\.data\.cache\.root: the token cache .* has no space left; free some or enlarge it"
    ):
        ensure_caches(spec, process="one")
    committed = ledger_of(root)
    assert committed.shards, "shards committed before must stay"
    assert not committed.finished
    filler.unlink()
    (small_disk / "root" / "data" / "BUILDER.json").unlink(missing_ok=True)
    ensure_caches(spec, process="two")
    assert ledger_of(root).shards[: len(committed.shards)] == committed.shards

    elsewhere = f"file://{tmp_path}/elsewhere"
    ensure_caches(spec_of(elsewhere, [jsonl(corpus)], data__cache={"shardTokens": 4096}), process="three")
    assert ledger_of(root) == ledger_of(elsewhere)
    wanted = files_below(tmp_path / "elsewhere" / "data")
    found = files_below(small_disk / "root" / "data")
    assert {name: found[name] for name in wanted} == wanted
