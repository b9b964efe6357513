"""Builds the cache of a corpus in small shards, to be killed: ``python -m tests.trainer.data.cache.build_child ROOT CORPUS WORKERS``."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

from halcyon.data.cache import build, election, ensure
from halcyon.data.open import ensure_caches
from halcyon.data.sources import pieces
from tests.trainer.data.cache.runs import jsonl, spec_of

PIECE_BYTES = 4096
SHARD_TOKENS = 4096


def main(root: str, corpus: Path, workers: int) -> None:
    ensure.pieces = functools.partial(pieces, target_bytes=PIECE_BYTES)  # type: ignore[assignment]
    build.SMALL_BYTES = 0
    election.SILENCE_SECONDS, election.BEAT_SECONDS = 0.2, 0.05
    cache = {"workers": workers, "shardTokens": SHARD_TOKENS}
    ensure_caches(spec_of(root, [jsonl(corpus)], data__cache=cache), process=f"child-{id(object())}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
