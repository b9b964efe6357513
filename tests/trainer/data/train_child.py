"""``halcyon`` with builds that work in small pieces and commit only as many shards as a file says.

Usage: ``python -m tests.trainer.data.train_child train RUN.YAML ...``, with the path of the file in GATE. A builder
that is silent for LOCK_TIMEOUT_SECONDS counts as dead. A test so controls how much text exists at each step, on a
machine of any speed.
"""

from __future__ import annotations

import functools
import itertools
import os
import time
from pathlib import Path
from typing import Any

from halcyon.commands.main import app
from halcyon.data.cache import build, election, ensure
from halcyon.data.cache.build import SourceBuild
from halcyon.data.sources import pieces

PIECE_BYTES = 4096


commit = SourceBuild._commit
passed = itertools.count()


def gated_commit(build: SourceBuild, *arguments: Any) -> Any:
    """Wait until the gate permits one more shard, counted over all sources, then commit it."""
    gate, number = Path(os.environ["GATE"]), next(passed)
    while int(gate.read_text()) <= number:
        time.sleep(0.02)
    return commit(build, *arguments)


if __name__ == "__main__":
    SourceBuild._commit = gated_commit  # type: ignore[method-assign]
    ensure.pieces = functools.partial(pieces, target_bytes=PIECE_BYTES)  # type: ignore[assignment]
    build.SMALL_BYTES = 0
    election.LOCK_TIMEOUT_SECONDS, election.RENEW_SECONDS = float(os.environ["LOCK_TIMEOUT_SECONDS"]), 0.2
    app()
