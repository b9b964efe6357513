"""The processes that tokenize, one set of them for all sources of a run.

They are started when the first large source needs them, so a run of small sources, or of one processor, has none. Each source has its own
queue of pieces in the making, bounded, and its results come in the order of its pieces, whatever the other sources do.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Self

from halcyon.data.cache import work
from halcyon.data.cache.handover import HandedOver
from halcyon.data.cache.shards import Part
from halcyon.data.sources import Piece
from halcyon.errors import BadConfiguration

_BACKGROUND_NICENESS = 10
_HELD_BYTES = 384 * 2**20
"""Text of a source that is in the making at a time, where the parent holds it."""


class TokenizerPool:
    """Tokenizes pieces of several sources.

    Args:
        jobs: Of all sources.
        workers: Processes; 0: one for each processor.
        background: This process has something else to do at the same time: of the processors one is left to it where their number was
            not given, the tokenizing processes stand back, and none of a large source's pieces is tokenized in this one.
    """

    def __init__(self, jobs: Sequence[work.Job], workers: int, *, background: bool = False) -> None:
        self._jobs = tuple(jobs)
        processors = os.cpu_count() or 1
        self._workers = workers or max(1, processors - background)
        self._background = background
        self._processes: ProcessPoolExecutor | None = None

    def tokenized(self, job: work.Job, pieces: Iterator[Piece], *, in_processes: bool) -> Iterator[Part]:
        """The tokens of pieces, in their order.

        Args:
            job: One of the pool's.
            pieces: Pieces of that source.
            in_processes: Worth the start of processes. Otherwise, or with only one process, this process does it.

        Raises:
            BadConfiguration: A row cannot be read, or a process was killed.
        """
        if not in_processes or (self._workers == 1 and not self._background):
            worker = work.Worker(job)
            for piece in pieces:
                yield from worker(piece)
            return
        try:
            yield from self._in_order(self._jobs.index(job), pieces)
        except BrokenProcessPool:
            raise BadConfiguration(
                f"{job.where}: a tokenizing process was killed, most likely for memory; give the pod more, or set data.cache.workers lower"
            ) from None

    def _in_order(self, number: int, pieces: Iterator[Piece]) -> Iterator[Part]:
        """Results in the order of the pieces, with a bounded number of pieces and results held in memory."""
        processes = self._started()
        waiting: deque[tuple[int, Future[HandedOver]]] = deque()
        held_bytes = 0
        for piece in pieces:
            size_bytes = piece.size_bytes
            while waiting and (len(waiting) >= self._workers + 2 or held_bytes + size_bytes > _HELD_BYTES):
                passed_bytes, future = waiting.popleft()
                held_bytes -= passed_bytes
                yield from future.result().take()
            waiting.append((size_bytes, processes.submit(work.tokenize, number, piece)))
            held_bytes += size_bytes
        while waiting:
            yield from waiting.popleft()[1].result().take()

    def _started(self) -> ProcessPoolExecutor:
        if self._processes is None:
            # Not forked from this process: it has threads, and soon a device.
            context = multiprocessing.get_context("spawn")
            niceness = _BACKGROUND_NICENESS if self._background else 0
            self._processes = ProcessPoolExecutor(
                self._workers, mp_context=context, initializer=work.begin, initargs=(self._jobs, niceness)
            )
        return self._processes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._processes is not None:
            self._processes.shutdown(cancel_futures=True)
