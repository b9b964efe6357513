"""Writes the history of a run while it trains: a thread of process 0 that flushes and merges segments.

What is recorded is flushed every `FLUSH_SECONDS`, when a save begins and when the process ends. A killed process loses
at most the rows since its last flush. As a save begins with a flush, these are steps that the next process group does
again.

The link of each checkpoint names the segments that are written (`HistoryWriter.written`), so no byte of them changes
unseen. A segment that a link names is deleted only when a later link names the segment into which it was merged. The
last flush writes `Segments`, for the rows after the newest link.

No error of the store reaches the training. After a failed flush the thread warns once and tries again with the next
one; rows of steps that wait are then thinned out, so the memory stays bounded. A write whose answer was lost is
repeated with the same key and the same bytes.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from halcyon.checkpoint.evidence import segments_of
from halcyon.host.storage.failures import Abandoned, StoreFailure
from halcyon.host.storage.store import Store
from halcyon.telemetry.history.background import STEP, Background, Row
from halcyon.telemetry.history.merging import ACCOUNT, due, merged, sampled
from halcyon.telemetry.history.segments import (
    METRICS_PREFIX,
    DamagedSegment,
    Groups,
    ProcessGroupId,
    Record,
    SegmentName,
    covers,
    digest,
    encode_row,
    encode_segment,
    live,
    parse_name,
    read_segment,
    segments_in,
)
from halcyon_api import checkpoint_documents
from halcyon_api.counting import counted
from halcyon_api.spec.checkpoint import CheckpointSpec

FLUSH_SECONDS = 20.0
"""Longest time for which rows are only in memory."""
_REQUEST_SECONDS = 60.0
Sums = dict[str, str]
"""SHA-256 of segments by key."""
_QUARANTINE_PREFIX = "quarantine/"
_LOOK_SECONDS = 0.5
_WRITTEN_SECONDS = 5.0
"""Longest wait of a commit for the history."""
_ASK, _FLUSH = "written", "flushed"
"""Events of rows that wait for a flush; the first asks for the segments, which a link will name."""
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
        group: ProcessGroupId,
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
        self._names: list[SegmentName] = []
        self._number = 1
        self._waiting: list[Record] = []
        self._unsent: tuple[SegmentName, bytes] | None = None
        self._wanted = self._warned = False
        self._sums: Sums = {}
        """SHA-256 of each segment that counts, by key; also of those that a link names and that are missing."""
        self._merged: list[SegmentName] = []
        """Segments that were merged into another one, and are still to be deleted."""
        self._named: set[str] = set()
        """The segments of the newest link, and of one that may become it."""
        self._given: Sums | None = None
        self._committed = False
        self._asked: list[Future[Sums]] = []
        self._names_all = False
        """Whether a link will name all segments."""
        # The first rows are written at once, so that the history shows each start.
        self._flushed_at = clock() - FLUSH_SECONDS
        super().__init__("history", self._take, self._failed, interval_seconds=_LOOK_SECONDS, clock=clock)

    def record(self, row: Row) -> None:
        """Take a row."""
        if row.event not in _NOT_KEPT:
            super().record(row)

    def written(self, seconds: float = _WRITTEN_SECONDS) -> Sums | None:
        """The segments that hold all rows so far, and the SHA-256 of each, for the link of a checkpoint. For the thread
        that commits.

        Args:
            seconds: Longest wait.

        Returns:
            The segments by key; None: the store did not take the rows in time.
        """
        self._given = None
        self._given = self._ask(_ASK, seconds)
        return self._given

    def flushed(self) -> bool:
        """Whether the store has all rows so far. For a thread that keeps a snapshot."""
        return self._ask(_FLUSH, _WRITTEN_SECONDS) is not None

    def _ask(self, event: str, seconds: float) -> Sums | None:
        answer: Future[Sums] = Future()
        if not self._ended:
            self.record(Row(event, 0.0, report=answer))
            self.hurry()
            with contextlib.suppress(TimeoutError):
                return answer.result(seconds)
        return None

    def _take(self, rows: list[Row], now: bool, last: bool) -> None:
        for row in rows:
            if isinstance(row.report, Future):
                self._asked.append(row.report)
                self._names_all |= row.event == _ASK
                continue
            self._waiting.append(_stored(row))
            if row.event == "checkpoint" and self._given is not None:
                self._named, self._committed = set(self._given), True
        if last and self.dropped:
            self._on_warning(f"the history lacks {counted(self.dropped, 'row')}, which found no room in its queue")
        self._wanted |= now
        if not (self._waiting or self._asked) and self._unsent is None and not last:
            return
        if last or self._wanted or self._clock() - self._flushed_at >= FLUSH_SECONDS:
            self._flushed_at, self._wanted = self._clock(), False
            self._flush(last=last)

    def _flush(self, *, last: bool) -> None:
        try:
            store = self._opened()
            self._send(store)
            if self._waiting:
                self._waiting.append(encode_row(Row(ACCOUNT, self._wall(), self._account())))
                name = SegmentName(self._number, self._number, 0, self._group.number, self._group.writer)
                self._number += 1
                self._unsent, self._waiting = (name, encode_segment(name, {self._group: self._waiting})), []
                self._send(store)
            self._warned = False
            if self._names_all:
                self._named |= self._sums.keys()
            for answer in self._asked:
                answer.set_result(dict(self._sums))
            self._asked, self._names_all = [], False
            if not last:
                self._merge(store)
            self._delete_merged(store)
            if last and self._has_root(store):
                end = checkpoint_documents.Segments(writer=self._group.writer, segments=self._sums)
                store.write(checkpoint_documents.SEGMENTS_KEY, checkpoint_documents.canonical_json(end.document()))
        except (StoreFailure, Abandoned) as failure:
            self._thin_out()
            if not self._warned:
                self._warned = True
                self._on_warning(
                    f"the history could not be written to {self._checkpoint.root}/{METRICS_PREFIX}, and is "
                    f"tried again: {failure}"
                )

    def _opened(self) -> Store:
        """The root, with the numbers that follow those in it."""
        if self._store is not None:
            return self._store
        store = Store(self._checkpoint, timeout_seconds=_REQUEST_SECONDS)
        present = segments_in(store)
        named = segments_of(store, self._head(store))
        self._named, keys = set(named), {name.key for name in present}
        # A merge that no link names yet was not completed, so its sources are all there.
        begun = [name for name in present if name.level and self._may_need(name) and name.key not in named]
        for name in begun:
            store.delete(name.key)
        self._names = live(set(present) - set(begun))
        self._merged = list(set(present) - set(begun) - set(self._names))
        missing = [name for name in map(parse_name, named) if name is not None and name.key not in keys]
        self._sums = {name.key: named[name.key] for name in missing if not _holder(self._names, name)}
        self._know(store, named)
        self._number = 1 + max((name.last for name in present), default=0)
        self._group = replace(self._group, number=1 + max((name.number for name in present), default=0))
        self._store = store
        return store

    def _know(self, store: Store, named: Mapping[str, str]) -> None:
        """Hash the segments that are not known yet: of an earlier process that was killed."""
        for name in self._names:
            if name.key not in self._sums:
                self._sums[name.key] = named.get(name.key) or digest(store.read(name.key).data or b"")

    def _may_need(self, name: SegmentName) -> bool:
        """Whether a segment holds rows of the newest link, or of one that may become it."""
        numbers = [one.last for one in map(parse_name, self._named) if one is not None]
        return name.first <= max(numbers, default=0)

    def _delete_merged(self, store: Store) -> None:
        """Delete the segments that were merged, but those whose merge no link names yet. Before them the names of an
        earlier process, which a link of this one has replaced.
        """
        if self._committed:
            store.delete(checkpoint_documents.SEGMENTS_KEY)
            self._committed = False
        for name in tuple(self._merged):
            holder = _holder(self._names, name)
            if name.key not in self._named and holder and (holder.key in self._named or not self._may_need(holder)):
                store.delete(name.key)
                self._merged.remove(name)

    def _send(self, store: Store) -> None:
        if self._unsent is not None:
            name, data = self._unsent
            store.write(name.key, data)
            self._names.append(name)
            self._sums[name.key] = digest(data)
            self._unsent = None

    def _merge(self, store: Store) -> None:
        """Merge while there is something to merge, as long as this process has the root."""
        while due(self._names):
            self._names = live(set(segments_in(store)) - set(self._merged))
            self._know(store, {})
            sources = due(self._names)
            if not sources or not self._has_root(store):
                return
            name = SegmentName(
                sources[0].first,
                max(one.last for one in sources),
                sources[0].level + 1,
                self._group.number,
                self._group.writer,
            )
            held = [one for one in map(parse_name, self._sums) if one is not None and covers(name, one)]
            parts = [self._part(store, one) for one in sorted(held, key=lambda one: one.order)]
            rows = merged(groups for groups, _ in parts)
            data = encode_segment(name, rows, [key for _, lost in parts for key in lost])
            store.write(name.key, data)
            self._names = [*(one for one in self._names if one not in sources), name]
            for one in held:
                del self._sums[one.key]
            self._sums[name.key] = digest(data)
            self._merged += sources

    def _part(self, store: Store, source: SegmentName) -> tuple[Groups, tuple[str, ...]]:
        """The rows of a segment, and the segments that are lost.

        A damaged one has no rows, and its bytes are set aside, because its name is about to be covered.
        """
        data = store.read(source.key).data
        try:
            if data is not None and digest(data) != self._sums[source.key]:
                raise DamagedSegment(f"{source.key} is not what was written")
            return read_segment(source.key, data)
        except DamagedSegment as damage:
            if data is not None:
                store.write(f"{_QUARANTINE_PREFIX}{source.key.replace('/', '-')}", data)
            self._on_warning(f"a part of the history is lost: {damage}")
            return {}, (source.key,)

    def _has_root(self, store: Store) -> bool:
        """Whether HEAD names this process.

        A writer that lost the root adds at most segments that `reading` cuts, and deletes nothing.
        """
        head = self._head(store)
        return head is not None and head.writer == self._group.writer

    def _head(self, store: Store) -> checkpoint_documents.Head | None:
        try:
            return checkpoint_documents.decode_head(store.read(checkpoint_documents.HEAD_KEY).data or b"")
        except checkpoint_documents.DamagedDocument:
            return None

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


def _holder(names: Iterable[SegmentName], name: SegmentName) -> SegmentName | None:
    """The segment into which another one was merged."""
    return next((one for one in names if covers(one, name)), None)


def _stored(row: Row) -> Record:
    if not _NOT_KEPT_FIELDS.isdisjoint(row.fields):
        row = replace(row, fields={name: value for name, value in row.fields.items() if name not in _NOT_KEPT_FIELDS})
    return encode_row(row)
