"""Newer checkpoints for a server that runs (``--follow``)."""

from __future__ import annotations

import logging
import threading
from collections import Counter

from halcyon.checkpoint.verify import Damaged
from halcyon.host.errors import TrainerExit
from halcyon.host.storage.failures import StoreFailure
from halcyon.serving.metrics import Metrics
from halcyon.serving.served import Source
from halcyon.serving.worker import Worker
from halcyon_api.checkpoint_documents import DamagedDocument

log = logging.getLogger(__name__)

_TRIES = 3
"""Attempts to read one checkpoint. Its files may be on the way of deletion, or the store may fail for a moment."""


class Follower:
    """Looks at the root in a thread of its own, and brings its newest good checkpoint to the worker.

    While texts still end with older weights, it waits: there are never more than two models in memory.

    Args:
        source: The root.
        worker: Gets the models.
        metrics: Counts the updates.
        every_seconds: Time between two looks.
    """

    def __init__(self, source: Source, worker: Worker, metrics: Metrics, every_seconds: float) -> None:
        self._source, self._worker, self._metrics, self._every_seconds = source, worker, metrics, every_seconds
        self._tries: Counter[str] = Counter()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="halcyon-follow", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; a checkpoint that it reads is not waited for."""
        self._ended.set()

    def look(self) -> bool:
        """Take the newest checkpoint if it is another one. Returns whether it was taken."""
        try:
            entry = self._source.newest()
        except (TrainerExit, StoreFailure, Damaged, DamagedDocument, OSError) as error:
            log.warning("the root cannot be read, so the server keeps its checkpoint: %s", error)
            return False
        if entry.path == self._worker.served.path or self._worker.older or self._tries[entry.path] >= _TRIES:
            return False
        self._tries[entry.path] += 1
        try:
            self._worker.adopt(self._source.load(entry))
        except Exception as error:  # whatever it is, the server goes on with the checkpoint that it has
            self._metrics.updates.labels("failed").inc()
            log.warning("the checkpoint of step %s was not taken: %s", entry.step, error)
            return False
        self._tries.clear()
        self._metrics.updates.labels("taken").inc()
        self._metrics.step.set(entry.step)
        log.info("new requests get the checkpoint of step %s", entry.step)
        return True

    def _run(self) -> None:
        while not self._ended.wait(self._every_seconds):
            self.look()
