"""A source whose token cache grows while the run trains on it.

It holds the newest snapshot, which is an ordinary `SourceData` of the text cached so far, and makes a new one when the
cache has grown. All snapshots agree on the text that they share: a shard never changes, the held-out sequences among
the first sequences stay the same, and a position is used only when its shuffle window is full. So a batch does not
depend on the snapshot that it was made from.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np

from halcyon.data.cache.background import CacheProgress
from halcyon.data.cache.ledger import Ledger
from halcyon.data.source_data import SourceData


class GrowingSource:
    """The newest snapshot of a source.

    Args:
        name: Name of the source.
        progress: Provides the ledger of the source.
        snapshot: Makes the source from a ledger.
    """

    def __init__(self, name: str, progress: CacheProgress, snapshot: Callable[[Ledger], SourceData]) -> None:
        self.name = name
        self._progress = progress
        self._snapshot = snapshot
        self._lock = threading.Lock()
        self._newest: tuple[Ledger, SourceData] | None = None

    @property
    def snapshot(self) -> SourceData:
        """The source with the text cached so far."""
        ledger = self._progress.ledger(self.name)
        if ledger is None:
            raise LookupError(f"the token cache of {self.name} has not been begun")
        with self._lock:
            if (
                self._newest is None
                or len(ledger.shards) > len(self._newest[0].shards)
                or ledger.finished != self._newest[0].finished
            ):
                self._newest = ledger, self._snapshot(ledger)
            return self._newest[1]

    def wait_for_turns(self, turns: np.ndarray) -> SourceData:
        """Wait until the source has these turns of its training order, and return it.

        Raises:
            Stopped: The process ends.
            Exception: The error that ended the build.
        """
        self._progress.wait_for(lambda: self.snapshot.has_turns(turns))
        return self.snapshot

    def wait_for_held_out(self, sequences: int) -> SourceData:
        """Wait until the source holds out this number of sequences, or is complete, and return it.

        Raises as `wait_for_turns` does.
        """
        self._progress.wait_for(lambda: self.snapshot.has_held_out(sequences))
        return self.snapshot
