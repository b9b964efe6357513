"""A source whose token cache grows while the run trains on it.

It holds the newest snapshot, an ordinary `SourceData` of the text that is there, and makes a new one when the cache has grown. Snapshots
agree about everything that they hold: a shard never changes, what is held out of the first sequences stays so, and a position is answered
only once its window is full. So which of them a batch was made of cannot be seen in it.
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
        progress: Knows its ledger.
        snapshot: Makes the source of a ledger.
    """

    def __init__(self, name: str, progress: CacheProgress, snapshot: Callable[[Ledger], SourceData]) -> None:
        self.name = name
        self._growth = progress
        self._snapshot = snapshot
        self._lock = threading.Lock()
        self._newest: tuple[Ledger, SourceData] | None = None

    @property
    def now(self) -> SourceData:
        """The source as far as it is there."""
        ledger = self._growth.ledger(self.name)
        if ledger is None:
            raise LookupError(f"the token cache of {self.name} has not been begun")
        with self._lock:
            if self._newest is None or len(ledger.shards) > len(self._newest[0].shards) or ledger.finished != self._newest[0].finished:
                self._newest = ledger, self._snapshot(ledger)
            return self._newest[1]

    def holding(self, turns: np.ndarray) -> SourceData:
        """The source once it holds these turns of the training order.

        Raises:
            Stopped: The process ends.
            Exception: What ended the build.
        """
        self._growth.wait_for(lambda: self.now.holds(turns))
        return self.now

    def holding_out(self, sequences: int) -> SourceData:
        """The source once it holds out this number of sequences, or is whole. Raises as `holding` does."""
        self._growth.wait_for(lambda: self.now.holds_out(sequences))
        return self.now
