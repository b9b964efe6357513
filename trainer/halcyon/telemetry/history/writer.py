"""Writes the history of a run while it trains: a thread of process 0 that flushes and merges segments.

What is recorded is flushed every `FLUSH_SECONDS`, when a save begins and when the process ends. A killed process loses
at most the rows since its last flush. As a save begins with a flush, these are steps that the next process group does
again.

No error of the store reaches the training. After a failed flush the thread warns once and tries again with the next
one; rows of steps that wait are then thinned out, so the memory stays bounded. A write whose answer was lost is
repeated with the same key and the same bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from halcyon.storage.failures import Abandoned, StoreFailure
from halcyon.storage.store import Store
from halcyon.telemetry.history import segments
from halcyon.telemetry.history.background import STEP, Background, Row
from halcyon.telemetry.history.merging import ACCOUNT, due, merged, sampled
from halcyon_api.checkpoint_documents import HEAD_KEY, DamagedDocument, decode_head
from halcyon_api.spec.checkpoint import CheckpointSpec

FLUSH_SECONDS = 20.0
"""Longest time for which rows are only in memory."""
_REQUEST_SECONDS = 60.0
_QUARANTINE_PREFIX = "quarantine/"
_LOOK_SECONDS = 0.5
_WAITING_STEPS = 8192
"""Rows of steps that wait while the store does not answer; beyond that they are thinned out."""
_WAITING_OTHERS = 8192
_NOT_KEPT = frozenset({"tokenized", "evaluating", "start", "joined", "watched"})
"""Events that are only progress, or that come before the root is taken; and the histograms of a watched step."""
_NOT_KEPT_FIELDS = frozenset({"stacks"})
"""Fields that are too large; their files lie beside the checkpoints."""


class HistoryWriter(Background):
    """Records the history of one process group. Create it when the root is taken.

    Args:
        checkpoint: The root.
        group: The process group; its number is found in the root.
        account: The steps done and the seconds by cause (`halcyon_api.status.goodput`) of this process, as ``step`` and
            ``seconds``; called in the background at each flush.
        on_warning: Called in the background with a sentence about a failure that costs only history.
        clock: Seconds, monotonic.
        wall: Seconds since 1970.
    """

    def __init__(
        self,
        checkpoint: CheckpointSpec,
        group: segments.ProcessGroupId,
        *,
        account: Callable[[], Mapping[str, Any]],
        on_warning: Callable[[str], object],
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._checkpoint, self._group = checkpoint, group
        self._account, self._on_warning = account, on_warning
        self._wall = wall
        self._store: Store | None = None
        self._names: list[segments.SegmentName] = []
        self._number = 1
        self._waiting: list[segments.Record] = []
        self._unsent: tuple[segments.SegmentName, bytes] | None = None
        self._wanted = self._warned = False
        # The first rows are written at once, so that the history shows each start.
        self._flushed_at = clock() - FLUSH_SECONDS
        super().__init__("history", self._take, self._failed, interval_seconds=_LOOK_SECONDS, clock=clock)

    def record(self, row: Row) -> None:
        """Take a row."""
        if row.event not in _NOT_KEPT:
            super().record(row)

    def _take(self, rows: list[Row], now: bool, last: bool) -> None:
        self._waiting += (_stored(row) for row in rows)
        self._wanted |= now
        if not self._waiting and self._unsent is None:
            return
        if last or self._wanted or self._clock() - self._flushed_at >= FLUSH_SECONDS:
            self._flushed_at, self._wanted = self._clock(), False
            self._flush(merge=not last)

    def _flush(self, *, merge: bool) -> None:
        try:
            store = self._opened()
            if self._unsent is not None:
                self._send(store)
            if self._waiting:
                self._waiting.append(segments.encode_row(Row(ACCOUNT, self._wall(), self._account())))
                name = segments.SegmentName(self._number, self._number, 0, self._group.number, self._group.writer)
                self._number += 1
                self._unsent, self._waiting = (name, segments.encode_segment(name, {self._group: self._waiting})), []
                self._send(store)
            self._warned = False
            if merge:
                self._merge(store)
        except (StoreFailure, Abandoned) as failure:
            self._thin_out()
            if not self._warned:
                self._warned = True
                self._on_warning(
                    f"the history could not be written to {self._checkpoint.root}/{segments.METRICS_PREFIX}, and is "
                    f"tried again: {failure}"
                )

    def _opened(self) -> Store:
        """The root, with the numbers that follow those in it. Deletes what a killed merge has left."""
        if self._store is not None:
            return self._store
        store = Store(self._checkpoint, timeout_seconds=_REQUEST_SECONDS)
        present = segments.segments_in(store)
        self._names = segments.live(present)
        self._number = 1 + max((name.last for name in present), default=0)
        self._group = replace(self._group, number=1 + max((name.number for name in present), default=0))
        self._store = store
        for name in set(present) - set(self._names):
            store.delete(name.key)
        return store

    def _send(self, store: Store) -> None:
        if self._unsent is not None:
            name, data = self._unsent
            store.write(name.key, data)
            self._names.append(name)
            self._unsent = None

    def _merge(self, store: Store) -> None:
        """Merge while there is something to merge, as long as this process has the root."""
        while due(self._names):
            self._names = segments.live(segments.segments_in(store))
            sources = due(self._names)
            if not sources or not self._has_root(store):
                return
            parts = [self._part(store, source) for source in sources]
            name = segments.SegmentName(
                sources[0].first,
                max(one.last for one in sources),
                sources[0].level + 1,
                self._group.number,
                self._group.writer,
            )
            store.write(name.key, segments.encode_segment(name, merged(parts)))
            self._names = [*(one for one in self._names if one not in sources), name]
            for source in sources:
                store.delete(source.key)

    def _part(self, store: Store, source: segments.SegmentName) -> segments.Groups:
        """The rows of a segment.

        A damaged one has none, and its bytes are set aside, because its name is about to be covered.
        """
        data = store.read(source.key).data
        try:
            return segments.decode_segment(source.key, data)
        except segments.DamagedSegment as damage:
            if data is not None:
                store.write(f"{_QUARANTINE_PREFIX}{source.key.replace('/', '-')}", data)
            self._on_warning(f"a part of the history is lost: {damage}")
            return {}

    def _has_root(self, store: Store) -> bool:
        """Whether HEAD names this process.

        A writer that lost the root adds at most segments that `reading` cuts, and deletes nothing.
        """
        try:
            data = store.read(HEAD_KEY).data
            return data is not None and decode_head(data).writer == self._group.writer
        except DamagedDocument:
            return False

    def _thin_out(self) -> None:
        steps = sum(row["event"] == STEP for row in self._waiting)
        if steps > _WAITING_STEPS:
            self._waiting = sampled({self._group: self._waiting}, _WAITING_STEPS // 2)[self._group]
        others = len(self._waiting) - steps
        if others > _WAITING_OTHERS:  # warnings of a store that is away for days
            self._waiting = [
                row for row in self._waiting if row["event"] in (STEP, "evaluation", "checkpoint", "task", "placed")
            ]

    def _failed(self, error: Exception) -> None:
        self._on_warning(f"the history of this process ends here: {type(error).__name__}: {error}")


def _stored(row: Row) -> segments.Record:
    if not _NOT_KEPT_FIELDS.isdisjoint(row.fields):
        row = replace(row, fields={name: value for name, value in row.fields.items() if name not in _NOT_KEPT_FIELDS})
    return segments.encode_row(row)
