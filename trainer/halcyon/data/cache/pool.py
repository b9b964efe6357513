"""The pool of tokenizing processes, common to all sources of a run.

The processes start when the first large source needs them, so a run with small sources only, or with one processor, has
none. Each source has its own bounded queue of pieces, and its results come in the order of its pieces, independent of
the other sources.
"""

import multiprocessing
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Self

from halcyon.data.cache import work
from halcyon.data.cache.shards import Part
from halcyon.data.cache.work import SentParts
from halcyon.data.sources import Piece
from halcyon.data.sources.expansion import Expands
from halcyon.data.sources.parquet import finer
from halcyon.data.sources.rows import in_parts
from halcyon.host.errors import BadConfiguration

_BACKGROUND_NICENESS = 10
_HELD_BYTES = 384 * 2**20
"""At most this many bytes of text in a source's queue are held in the parent process."""


class TokenizerPool:
    """Tokenizes pieces of several sources.

    Args:
        jobs: The jobs of all sources.
        workers: Number of processes; 0: one for each processor.
        background: This process has other work at the same time. One processor is then left to it (if ``workers`` is
            0), the tokenizing processes run at a lower priority, and the pieces of a large source are never tokenized
            in this process.
    """

    def __init__(self, jobs: Sequence[work.Job], workers: int, *, background: bool = False) -> None:
        self._jobs = tuple(jobs)
        processors = os.cpu_count() or 1
        self._workers = workers or max(1, processors - background)
        self._background = background
        self._processes: ProcessPoolExecutor | None = None

    def tokenized(self, job: work.Job, pieces: Iterator[Piece], *, in_processes: bool) -> Iterator[Part]:
        """The tokens of pieces, in the order of the pieces.

        Args:
            job: One of the pool's jobs.
            pieces: Pieces of that job's source.
            in_processes: Whether to use the processes. If False, or with only one process and no ``background``, this
                process tokenizes.

        Raises:
            BadConfiguration: A row cannot be read, or a process was killed.
        """
        if not in_processes or (self._workers == 1 and not self._background):
            worker = work.Worker(job)
            for piece in pieces:
                for parts in in_parts(piece, job.access, worker):
                    yield from parts
            return
        try:
            yield from self._in_order(self._jobs.index(job), pieces)
        except BrokenProcessPool:
            raise BadConfiguration(
                f"{job.where}: a tokenizing process was killed, probably because memory ran out; give the pod more "
                "memory, or lower data.cache.workers"
            ) from None

    def _in_order(self, number: int, pieces: Iterator[Piece]) -> Iterator[Part]:
        """Results in the order of the pieces; a bounded number of pieces and results is in memory."""
        if self._processes is None:
            # Not forked, because this process has threads and will have a device.
            context = multiprocessing.get_context("spawn")
            niceness = _BACKGROUND_NICENESS if self._background else 0
            self._processes = ProcessPoolExecutor(
                self._workers, mp_context=context, initializer=work.begin, initargs=(self._jobs, niceness)
            )
        waiting: deque[tuple[Piece, Future[SentParts]]] = deque()
        held_bytes = 0
        for piece in pieces:
            while waiting and (len(waiting) >= self._workers + 2 or held_bytes + piece.size_bytes > _HELD_BYTES):
                held_bytes -= waiting[0][0].size_bytes
                yield from self._result(number, *waiting.popleft())
            waiting.append((piece, self._processes.submit(work.tokenize, number, piece)))
            held_bytes += piece.size_bytes
        while waiting:
            yield from self._result(number, *waiting.popleft())

    def _result(self, number: int, piece: Piece, future: Future[SentParts]) -> Iterator[Part]:
        """The result of a piece, or those of its parts if it is too large in memory."""
        try:
            sent = future.result()
        except Expands:
            yield from self._in_order(number, finer(piece, self._jobs[number].access))
        else:
            yield from sent.take()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._processes is not None:
            self._processes.shutdown(cancel_futures=True)
