"""Elects one builder among many hosts: the host that writes the lock builds; the others wait and take over if the lock
stops changing.

The lock is a document that its holder rewrites every `RENEW_SECONDS` by compare-and-swap. A waiting process uses only
its own clock: if the document has not changed for `LOCK_TIMEOUT_SECONDS`, its holder is dead or disconnected, and the
process writes its own name by compare-and-swap. The lock only saves work. Two builders at once are safe, because the
ledger takes every shard by compare-and-swap too.

A builder that fails records its error in the document. The processes of its own run that saw it building fail with the
same message, because they would fail at the same row. A process that starts later finds a free lock.
"""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from halcyon.host.errors import BadConfiguration, DamagedData, DataUnreachable, Preempted, RootUnusable, TrainerExit
from halcyon.host.storage.failures import StoreFailure
from halcyon.host.storage.store import Store

BUILDER_KEY = "BUILDER.json"
RENEW_SECONDS = 3.0
LOCK_TIMEOUT_SECONDS = 30.0
_SENTENCE_LIMIT = 2048
_KINDS: tuple[type[TrainerExit], ...] = (DamagedData, BadConfiguration, DataUnreachable, RootUnusable, TrainerExit)


@dataclass(eq=False)
class Builder:
    """This process's lock for building a cache.

    Args:
        store: The cache's root.
        name: A name that no other process has.
        run: The run of this process; empty: no run.
        clock: Seconds, monotonic.
    """

    store: Store
    name: str
    run: str = ""
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._beats = 0
        self._generation: bytes | None = None
        self._seen: tuple[bytes, float] | None = None
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def try_elect(self) -> bool:
        """Try to become the builder; True: this process is the builder now. Call again to detect that the current
        builder has died.

        Raises:
            TrainerExit: Another process of the run was the builder at an earlier call, and has failed.
        """
        value = self.store.read(BUILDER_KEY)
        document = _decoded(value.data)
        if "failed" in document and self._seen is not None and self.run and document.get("run") == self.run:
            raise _as_error(document)
        if value.data and "builder" in document:
            now = self.clock()
            if self._seen is None or self._seen[0] != value.generation:
                self._seen = (value.generation, now)
                return False
            if now - self._seen[1] < LOCK_TIMEOUT_SECONDS:
                return False
        self._generation = self.store.swap(BUILDER_KEY, self._document(), value.generation)
        return self._generation is not None

    def __enter__(self) -> Self:
        """Renew the lock until the end of the block.

        An error that ends the block is reported to the other processes of the run.
        """
        self._over.clear()
        self._thread = threading.Thread(target=self._renew, name="halcyon-data-builder", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        if self._generation is not None:
            try:
                self.store.swap(BUILDER_KEY, self._final_document(error), self._generation)
            except StoreFailure:
                return  # the next builder takes over after LOCK_TIMEOUT_SECONDS

    def _renew(self) -> None:
        while not self._over.wait(RENEW_SECONDS):
            try:
                if self._generation is not None:
                    self._generation = self.store.swap(BUILDER_KEY, self._document(), self._generation)
            except StoreFailure:
                continue

    def _document(self) -> bytes:
        self._beats += 1
        return json.dumps({"builder": self.name, "beat": self._beats}).encode()

    def _final_document(self, error: BaseException | None) -> bytes:
        kind = next((kind for kind in _KINDS if isinstance(error, kind)), None)
        if kind is None or isinstance(
            error, Preempted
        ):  # a preemption notice to this process is not a failure of the build
            return b"{}"
        return json.dumps({"run": self.run, "failed": str(error)[:_SENTENCE_LIMIT], "kind": kind.__name__}).encode()


def _decoded(data: bytes | None) -> dict[str, Any]:
    """The lock's document. A document that cannot be read counts as a builder that has died."""
    try:
        document = json.loads(data or b"{}")
    except ValueError:
        document = None
    return document if isinstance(document, dict) else {"builder": "unknown"}


def _as_error(document: dict[str, Any]) -> TrainerExit:
    kind = next((kind for kind in _KINDS if kind.__name__ == document.get("kind")), TrainerExit)
    return kind(str(document["failed"])[:_SENTENCE_LIMIT])
