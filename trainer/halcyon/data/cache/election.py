"""One builder among many hosts: whoever writes the lock builds, the others wait and take over if it falls silent.

The lock is a document that its holder rewrites every few seconds by compare-and-swap. A waiter judges by its own clock alone: if the
document has not changed for `SILENCE_SECONDS`, its holder is dead or cut off, and the waiter swaps its own name in. The lock saves work and
nothing else; that no builder can do harm is the ledger's doing, which takes every shard by compare-and-swap too.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from halcyon.checkpoint.failures import StoreFailure
from halcyon.checkpoint.store import Store

BUILDER_KEY = "BUILDER.json"
BEAT_SECONDS = 3.0
SILENCE_SECONDS = 30.0


class Builder:
    """This process's claim to build a cache.

    Args:
        store: The cache's root.
        name: A name that no other process has.
        clock: Seconds, monotonic.
    """

    def __init__(self, store: Store, name: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._name = name
        self._clock = clock
        self._beats = 0
        self._generation: bytes | None = None
        self._seen: tuple[bytes, float] | None = None
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def elected(self) -> bool:
        """Try to become the builder; True if this process is it now. Ask again to see whether the present one has fallen silent."""
        value = self._store.read(BUILDER_KEY)
        if value.data and not self._released(value.data):
            now = self._clock()
            if self._seen is None or self._seen[0] != value.generation:
                self._seen = (value.generation, now)
                return False
            if now - self._seen[1] < SILENCE_SECONDS:
                return False
        self._generation = self._store.swap(BUILDER_KEY, self._document(), value.generation)
        return self._generation is not None

    def __enter__(self) -> Self:
        """Keep the claim alive until the end of the block."""
        self._thread = threading.Thread(target=self._beat, name="halcyon-data-builder", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        if self._generation is not None:
            try:
                self._store.swap(BUILDER_KEY, b"{}", self._generation)
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

    @staticmethod
    def _released(data: bytes) -> bool:
        return data.strip() == b"{}"
