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
from itertools import groupby
from typing import Literal

import numpy as np

from halcyon.data.cache.shards import Part, Tokenized
from halcyon.data.cache.skipped import Skipped
from halcyon.data.formats import build_formatter
from halcyon.data.formats.document import Formatter, TokenizedDocument
from halcyon.data.formats.text import TextFormatter
from halcyon.data.forms.form import Form
from halcyon.data.forms.messages import is_rejected
from halcyon.data.sources import Access, Piece, SourceRow, read_piece
from halcyon.data.sources.failures import errors_at
from halcyon.data.sources.piece import Files, LeftOut
from halcyon.data.sources.spill_file import SpillFile
from halcyon.host.errors import BadConfiguration
from halcyon.host.linux import keep_freed_memory
from halcyon.tokenizer import TokenizerDefinition, load
from halcyon_api.spec.sources import FormatSpec

UNKNOWN_FILE = -1
"""File number of a document whose file is not in the ledger."""
PART_TOKENS = 2**22
"""Tokens of a part of a long document. A shard may end after any part."""
SOUNDS = 8
"""Rows with sounds in a part."""
FORMAT_VERSION = 4
"""Increased when the same rows would give other tokens than before."""


@dataclass(frozen=True)
class SentParts:
    """The tokenized parts of a piece, on the way to the builder: through the pipe, and the tokens of long documents
    through a file.

    A message in a pipe is in memory several times: as arrays and as bytes, at the sender and at the receiver. For the
    four million bytes of a usual piece this is negligible; for a document of a hundred million tokens it is more than
    all other memory.
    """

    parts: tuple[Part, ...]
    """The parts; parts of long documents have no tokens here."""
    counts: tuple[int, ...]
    """Number of tokens of each part in the file."""
    aside: SpillFile | None
    """The file; None: no document is long."""

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


def pack_parts(parts: Iterable[Part], *, large: bool = False) -> SentParts:
    """Prepare parts for sending; reads ``parts`` one by one. `large`: the tokens of all parts go through the file."""
    sent: list[Part] = []
    counts: list[int] = []
    aside: SpillFile | None = None
    goes_on = False
    for part in parts:
        documents = part.documents
        long = large or goes_on or documents.open_tokens > 0
        goes_on = documents.open_tokens > 0
        if long:
            aside = aside or SpillFile.make()
            aside.append([documents.tokens.data.cast("B")])
            part = replace(part, documents=replace(documents, tokens=documents.tokens[:0].copy()))
        sent.append(part)
        counts.append(len(documents.tokens) if long else 0)
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


class Worker:
    """Tokenizes pieces of one source."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._files = {uri: number for number, uri in enumerate(job.files)}
        self._formatter: Formatter = build_formatter(
            job.format, load(job.tokenizer), where=f"{job.where}.format", form=job.form, access=job.access
        )
        self.hears = job.format.speech is not None
        """Whether rows have sounds, which are large."""
        self._texts = self._formatter if isinstance(self._formatter, TextFormatter) else None

    def __call__(self, piece: Piece) -> Iterator[Part]:
        """The documents of a piece. A document with long text is separate from the others and has several parts.

        Raises:
            BadConfiguration: A row cannot be read. The message names the file, the row and the fix.
            Expands: The piece is too large in memory: use `in_parts`.
        """
        return self._parts(piece, read_piece(piece, self._job.access))

    def _parts(self, piece: Piece, rows: list[SourceRow]) -> Iterator[Part]:
        begin = taken = 0
        for long, run in self._runs(piece, rows):
            taken += len(run)
            end = piece.rows if taken == len(rows) else _place(piece, rows, taken)
            made = self._long(run[0], end - begin) if long else [self._documents(piece, run, end - begin)]
            for documents in made:
                yield Part(documents, documents.digest())
            begin = end

    def _runs(self, piece: Piece, rows: list[SourceRow]) -> Iterator[tuple[bool, list[SourceRow]]]:
        """Rows that are tokenized together, and whether they are a single row with long text."""
        if self.hears and rows:
            yield from ((False, rows[first : first + SOUNDS]) for first in range(0, len(rows), SOUNDS))
            return
        if self._texts is None or not rows:
            yield False, rows
            return
        for long, run in groupby(rows, self._texts.is_long):
            if long:
                yield from ((True, [row]) for row in run)
            else:
                yield False, list(run)

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
            rows=rows,
            empty_rows=rows - len({document.row for document in documents}) - rejected - skipped.rows,
            rejected_rows=rejected,
            skipped=skipped,
            size_bytes=sum(document.size_bytes for document in documents),
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
        if form is None or "label" not in form.fields:
            return 0
        return sum(is_rejected(form, row.value) for row in run if isinstance(row.value, dict))

    def _long(self, row: SourceRow, rows: int) -> Iterator[Tokenized]:
        """The single document of a row, cut every `PART_TOKENS`.

        Only the last part holds the end, the origin and the row count.
        """
        assert self._texts is not None  # noqa: S101 - only texts are long
        document = self._texts.long_document(row)
        held: list[np.ndarray] = []
        count = passed = size_bytes = 0
        origin = np.array([[self._files.get(row.file, UNKNOWN_FILE), row.number]], np.int64)
        for ids in document.tokens:
            held.append(ids.astype(self._job.token_type))
            count += len(ids)
            while count > PART_TOKENS:
                joined = np.concatenate(held)
                held, count, passed = [joined[PART_TOKENS:]], count - PART_TOKENS, passed + PART_TOKENS
                size_bytes, before = document.size_bytes, size_bytes
                nothing = np.empty(0, np.int64)
                yield Tokenized(
                    joined[:PART_TOKENS], nothing, origin[:0], None, 0, 0, size_bytes - before, open_tokens=passed
                )
        tokens = _joined(held, self._job.token_type)
        yield Tokenized(
            tokens, np.array([len(tokens)], np.int64), origin, None, rows, rows - 1, document.size_bytes - size_bytes
        )

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
        worker = _worker(number)
        return pack_parts(worker(piece), large=worker.hears)


@cache
def _worker(number: int) -> Worker:
    return Worker(_jobs[number])
