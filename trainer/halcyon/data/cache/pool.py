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
from halcyon.data.cache.shards import Tokenized
from halcyon.data.sources import Piece
from halcyon.errors import BadConfiguration

_BACKGROUND_NICENESS = 10


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

    def tokenized(self, job: work.Job, pieces: Iterator[Piece], *, in_processes: bool) -> Iterator[Tokenized]:
        """The tokens of pieces, in their order.

        Args:
            job: One of the pool's.
            pieces: Pieces of that source.
            in_processes: Worth the start of processes. Otherwise, or with only one process, this process does it.

        Raises:
            BadConfiguration: A row cannot be read, or a process was killed.
        """
        if not in_processes or (self._workers == 1 and not self._background):
            yield from map(work.Worker(job), pieces)
            return
        try:
            yield from self._in_order(self._jobs.index(job), pieces)
        except BrokenProcessPool:
            raise BadConfiguration(
                f"{job.where}: a tokenizing process was killed, most likely for memory; give the pod more, or set data.cache.workers lower"
            ) from None

    def _in_order(self, number: int, pieces: Iterator[Piece]) -> Iterator[Tokenized]:
        """Results in the order of the pieces, with a bounded number of pieces and results held in memory."""
        processes = self._started()
        waiting: deque[Future[Tokenized]] = deque()
        for piece in pieces:
            waiting.append(processes.submit(work.tokenize, number, piece))
            if len(waiting) >= self._workers + 2:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

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
