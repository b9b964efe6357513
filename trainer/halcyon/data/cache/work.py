"""The work of a worker process: tokenizes one piece of a source.

Imports neither JAX nor checkpoint code, so that a worker starts fast.
"""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np

from halcyon.data.cache.shards import Counts, Part, Tokenized
from halcyon.data.cache.skipped import Skipped
from halcyon.data.formats import build_formatter
from halcyon.data.formats.document import Formatter, TokenizedDocument
from halcyon.data.forms.form import Form
from halcyon.data.forms.messages import is_rejected
from halcyon.data.sources import Access, Piece, SourceRow, read_piece
from halcyon.data.sources.failures import errors_at
from halcyon.data.sources.piece import Files, LeftOut
from halcyon.data.sources.spill_file import SpillFile
from halcyon.host.errors import BadConfiguration
from halcyon.host.linux import keep_freed_memory
from halcyon.tokenizer import TokenizerDefinition, load
from halcyon_api.spec.model_shape import ImageShape
from halcyon_api.spec.sources import FormatSpec

UNKNOWN_FILE = -1
"""File number of a document whose file is not in the ledger."""
PIPE_TOKENS = 2**23
"""Tokens of a piece that a worker sends through its pipe."""
LARGE_ROWS = 8
"""Rows with sounds or images in a part."""


@dataclass(frozen=True)
class SentParts:
    """The tokenized parts of a piece, on the way to the builder: the first `PIPE_TOKENS` through the pipe, and the
    others, of sounds or of a long document, through a file.

    A message in a pipe is in memory several times: as arrays and as bytes, at the sender and at the receiver. For the
    four million bytes of a usual piece this is negligible; for a document of a hundred million tokens it is more than
    all other memory.
    """

    parts: tuple[Part, ...]
    """The parts; those that go through the file have no tokens here."""
    counts: tuple[int, ...]
    """Number of tokens of each part in the file."""
    aside: SpillFile | None
    """The file; None: all tokens go through the pipe."""

    def take(self) -> Iterator[Part]:
        """The parts with all their tokens; can be taken once."""
        content = None if self.aside is None else self.aside.take()
        offset = 0
        for part, count in zip(self.parts, self.counts, strict=True):
            if not count or content is None:
                yield part
                continue
            tokens = np.frombuffer(content, part.documents.tokens.dtype, count, offset)
            offset += tokens.nbytes
            yield replace(part, documents=replace(part.documents, tokens=tokens))


def pack_parts(parts: Iterable[Part]) -> SentParts:
    """Prepare parts for sending; reads ``parts`` one by one."""
    sent: list[Part] = []
    counts: list[int] = []
    aside: SpillFile | None = None
    room = PIPE_TOKENS
    for part in parts:
        documents, count = part.documents, len(part.documents.tokens)
        room -= count
        if room < 0:
            aside = aside or SpillFile.make()
            aside.append([documents.tokens.data.cast("B")])
            part = replace(part, documents=replace(documents, tokens=documents.tokens[:0].copy()))
        sent.append(part)
        counts.append(count if room < 0 else 0)
    return SentParts(tuple(sent), tuple(counts), aside)


@dataclass(frozen=True)
class Job:
    """The settings common to all pieces of one source; picklable."""

    tokenizer: TokenizerDefinition
    format: FormatSpec
    where: str
    """Field of the source in the run document, for messages."""
    access: Access
    files: tuple[str, ...]
    """Addresses of the source's files, in the ledger's order."""
    token_type: str
    weight_type: str | None
    form: Form | None = None
    """Form of rows with conversations."""
    sight: ImageShape | None = None
    """The images that the model sees. None: none."""


def is_large(form: FormatSpec, sight: ImageShape | None) -> bool:
    """Whether rows have sounds or images, numbers of 16 bits."""
    return form.speech is not None or (sight is not None and form.chat is not None)


class Worker:
    """Tokenizes pieces of one source."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._files = {uri: number for number, uri in enumerate(job.files)}
        self._formatter: Formatter = build_formatter(
            job.format,
            load(job.tokenizer),
            where=f"{job.where}.format",
            form=job.form,
            access=job.access,
            sight=job.sight,
        )

    def __call__(self, piece: Piece) -> Iterator[Part]:
        """The documents of a piece.

        Raises:
            BadConfiguration: A row cannot be read. The message names the file, the row and the fix.
            Expands: The piece is too large in memory: use `in_parts`.
        """
        return self._parts(piece, read_piece(piece, self._job.access))

    def _parts(self, piece: Piece, rows: list[SourceRow]) -> Iterator[Part]:
        begin, together = 0, LARGE_ROWS if is_large(self._job.format, self._job.sight) else max(1, len(rows))
        for first in range(0, max(1, len(rows)), together):
            last = first + together
            end = piece.rows if last >= len(rows) else _place(piece, rows, last)
            documents = self._documents(piece, rows[first:last], end - begin)
            yield Part(documents, documents.digest())
            begin = end

    def _documents(self, piece: Piece, run: list[SourceRow], rows: int) -> Tokenized:
        left_out = [row.value for row in run if isinstance(row.value, LeftOut)]
        if left_out:
            run = [row for row in run if not isinstance(row.value, LeftOut)]
        try:
            documents = self._formatter(run)
        except BadConfiguration:
            if not piece.skips:
                raise
            run, bad = self._without_bad(run, "file" if isinstance(piece.content, Files) else "row")
            documents = self._formatter(run)
            left_out += bad
        skipped = Skipped.of(left_out)
        rejected = self._rejected(run)
        origins = np.empty((len(documents), 2), np.int64)
        origins[:, 0] = [self._files.get(run[document.row].file, UNKNOWN_FILE) for document in documents]
        origins[:, 1] = [run[document.row].number for document in documents]
        return Tokenized(
            tokens=_joined([document.tokens for document in documents], self._job.token_type),
            ends=np.cumsum([len(document.tokens) for document in documents], dtype=np.int64),
            origins=origins,
            weights=self._weights(documents),
            counts=Counts(
                rows=rows,
                empty_rows=rows - len({document.row for document in documents}) - rejected - skipped.rows,
                rejected_rows=rejected,
                documents=len(documents),
                tokens=sum(len(document.tokens) for document in documents),
                size_bytes=sum(document.size_bytes for document in documents),
                skipped=skipped,
            ),
        )

    def _without_bad(self, run: list[SourceRow], kind: Literal["file", "row"]) -> tuple[list[SourceRow], list[LeftOut]]:
        """The rows that the formatter takes, and the others."""
        try:
            self._formatter(run)
        except BadConfiguration as error:
            if len(run) == 1:
                return [], [LeftOut(kind, str(error).partition(": ")[2])]  # without the field of the format
        else:
            return run, []
        half = len(run) // 2
        (first, bad), (second, also_bad) = (self._without_bad(part, kind) for part in (run[:half], run[half:]))
        return first + second, bad + also_bad

    def _rejected(self, run: list[SourceRow]) -> int:
        """Number of rows that the formatter has left out because of their label."""
        form = self._job.form
        return sum(form is not None and isinstance(row.value, dict) and is_rejected(form, row.value) for row in run)

    def _weights(self, documents: list[TokenizedDocument]) -> np.ndarray | None:
        if self._job.weight_type is None:
            return None
        return _joined(
            [np.ones(len(document.tokens)) if document.weights is None else document.weights for document in documents],
            self._job.weight_type,
        )


def _joined(arrays: list[np.ndarray], dtype: str) -> np.ndarray:
    return np.concatenate(arrays, dtype=dtype, casting="unsafe") if arrays else np.empty(0, dtype)


def _place(piece: Piece, rows: list[SourceRow], index: int) -> int:
    """Index of a row in its piece, blank lines included. Pieces of whole files have no blank lines."""
    return index if isinstance(piece.content, Files) else rows[index].number - piece.number


_jobs: tuple[Job, ...] = ()


def begin(jobs: tuple[Job, ...], niceness: int = 0) -> None:
    """Prepare this worker process, once. It exits when the process that started it ends for any reason.

    Args:
        jobs: Jobs of all sources whose pieces it may get.
        niceness: Increase of its niceness: a larger value gives it a lower priority.
    """
    global _jobs
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all processes; the parent handles it
    # This worker has one processor; without this the fast encoder would start a thread for each processor.
    os.environ |= {"FASTOKENS_BPE_THREADS": "1", "RAYON_NUM_THREADS": "1"}
    keep_freed_memory()
    os.nice(niceness)
    threading.Thread(target=_exit_with_parent, name="halcyon-parent-watch", daemon=True).start()
    _jobs = jobs


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def tokenize(number: int, piece: Piece) -> SentParts:
    """The documents of a piece of the source with this job number. Call `begin` in this process first."""
    with errors_at(piece.where):
        return pack_parts(_worker(number)(piece))


@cache
def _worker(number: int) -> Worker:
    return Worker(_jobs[number])
