"""``halcyon`` as it is, but that its builds work in small pieces and get on only so far as a file says: ``python -m
tests.trainer.data.train_child train RUN.YAML ...``, with the path of that file in GATE.

So a test decides how much text a training has at which of its steps, on a machine of any speed.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from halcyon.cli import app
from halcyon.data.cache import build, election, ensure
from halcyon.data.cache.pool import TokenizerPool
from halcyon.data.sources import pieces

PIECE_BYTES = 4096


class GatedPool(TokenizerPool):
    """Gives the results of no more pieces than the gate says, of all sources together."""

    def tokenized(self, *arguments: Any, **options: Any) -> Iterator[Any]:
        gate = Path(os.environ["GATE"])
        for part in super().tokenized(*arguments, **options):
            while int(gate.read_text()) <= GatedPool.given:
                time.sleep(0.02)
            GatedPool.given += 1
            yield part

    given = 0


if __name__ == "__main__":
    ensure.TokenizerPool = GatedPool  # type: ignore[misc]
    ensure.pieces = functools.partial(pieces, target_bytes=PIECE_BYTES)  # type: ignore[assignment]
    ensure._POLL_SECONDS = 0.05
    build.SMALL_BYTES = 0
    election.SILENCE_SECONDS, election.BEAT_SECONDS = 1.0, 0.2
    app()
