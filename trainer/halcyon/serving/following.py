"""Newer checkpoints for a server that runs (``--follow``)."""

import logging
import threading
from collections import Counter
from dataclasses import dataclass

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


@dataclass(eq=False)
class Follower:
    """Looks at the root in a thread of its own, and brings its newest good checkpoint to the worker.

    While texts still end with older weights, it waits: there are never more than two models in memory.

    Args:
        source: The root.
        worker: Gets the models.
        metrics: Counts the updates.
        every_seconds: Time between two looks.
    """

    source: Source
    worker: Worker
    metrics: Metrics
    every_seconds: float

    def __post_init__(self) -> None:
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
            entry = self.source.newest()
        except (TrainerExit, StoreFailure, Damaged, DamagedDocument, OSError) as error:
            log.warning("the root cannot be read, so the server keeps its checkpoint: %s", error)
            return False
        if entry.path == self.worker.served.path or self.worker.older or self._tries[entry.path] >= _TRIES:
            return False
        self._tries[entry.path] += 1
        try:
            self.worker.adopt(self.source.load(entry))
        except Exception as error:  # whatever it is, the server goes on with the checkpoint that it has
            self.metrics.updates.labels("failed").inc()
            log.warning("the checkpoint of step %s was not taken: %s", entry.step, error)
            return False
        self._tries.clear()
        self.metrics.updates.labels("taken").inc()
        self.metrics.step.set(entry.step)
        log.info("new requests get the checkpoint of step %s", entry.step)
        return True

    def _run(self) -> None:
        while not self._ended.wait(self.every_seconds):
            self.look()
