"""One builder among many hosts: the host that writes the lock builds, the others wait and take over if it falls silent.

The lock is a document that its holder rewrites every few seconds by compare-and-swap. A waiter judges by its own clock alone: if the
document has not changed for `SILENCE_SECONDS`, its holder is dead or cut off, and the waiter swaps its own name in. The lock saves work and
nothing else; that no builder can do harm is the ledger's doing, which takes every shard by compare-and-swap too.

A builder that fails says so in the document, and the processes of its own run that saw it building fail with the same sentence: the bad row
would be as bad for them, and they need not look for it. A later process finds a free lock.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from halcyon.errors import BadConfiguration, DamagedData, DataUnreachable, Preempted, RootUnusable, TrainerExit
from halcyon.storage.failures import StoreFailure
from halcyon.storage.store import Store

BUILDER_KEY = "BUILDER.json"
BEAT_SECONDS = 3.0
SILENCE_SECONDS = 30.0
_SENTENCE_LIMIT = 2048
_KINDS: tuple[type[TrainerExit], ...] = (DamagedData, BadConfiguration, DataUnreachable, RootUnusable, TrainerExit)


class Builder:
    """This process's claim to build a cache.

    Args:
        store: The cache's root.
        name: A name that no other process has.
        run: The run that this process belongs to; empty: none.
        clock: Seconds, monotonic.
    """

    def __init__(self, store: Store, name: str, *, run: str = "", clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._name = name
        self._run = run
        self._clock = clock
        self._beats = 0
        self._generation: bytes | None = None
        self._seen: tuple[bytes, float] | None = None
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def elected(self) -> bool:
        """Try to become the builder; True if this process is it now. Ask again to see whether the present one has fallen silent.

        Raises:
            TrainerExit: Another process of the run was the builder when asked before, and has failed.
        """
        value = self._store.read(BUILDER_KEY)
        document = _decoded(value.data)
        if "failed" in document and self._seen is not None and self._run and document.get("run") == self._run:
            raise _as_error(document)
        if value.data and "builder" in document:
            now = self._clock()
            if self._seen is None or self._seen[0] != value.generation:
                self._seen = (value.generation, now)
                return False
            if now - self._seen[1] < SILENCE_SECONDS:
                return False
        self._generation = self._store.swap(BUILDER_KEY, self._document(), value.generation)
        return self._generation is not None

    def __enter__(self) -> Self:
        """Keep the claim alive until the end of the block; an error that ends it is reported to the other processes of the run."""
        self._over.clear()
        self._thread = threading.Thread(target=self._beat, name="halcyon-data-builder", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        if self._generation is not None:
            try:
                self._store.swap(BUILDER_KEY, self._last_words(error), self._generation)
            except StoreFailure:
                return  # the next builder waits for the silence

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            try:
                if self._generation is not None:
                    self._generation = self._store.swap(BUILDER_KEY, self._document(), self._generation)
            except StoreFailure:
                continue

    def _document(self) -> bytes:
        self._beats += 1
        return json.dumps({"builder": self._name, "beat": self._beats}).encode()

    def _last_words(self, error: BaseException | None) -> bytes:
        kind = next((kind for kind in _KINDS if isinstance(error, kind)), None)
        if kind is None or isinstance(error, Preempted):  # a notice to this process is no failure of the build
            return b"{}"
        return json.dumps({"run": self._run, "failed": str(error)[:_SENTENCE_LIMIT], "kind": kind.__name__}).encode()


def _decoded(data: bytes | None) -> dict[str, Any]:
    """The lock's document; one that cannot be read counts as a builder that will fall silent."""
    try:
        document = json.loads(data or b"{}")
    except ValueError:
        document = None
    return document if isinstance(document, dict) else {"builder": "unknown"}


def _as_error(document: dict[str, Any]) -> TrainerExit:
    kind = next((kind for kind in _KINDS if kind.__name__ == document.get("kind")), TrainerExit)
    return kind(str(document["failed"])[:_SENTENCE_LIMIT])
