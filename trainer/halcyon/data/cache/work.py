"""What a worker process does: one piece of a source to tokens. Imports neither JAX nor a checkpoint, for a worker must start fast."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import threading
from dataclasses import dataclass

import numpy as np

from halcyon.data.cache.shards import Tokenized
from halcyon.data.formats import Formatter, TokenizedDocument, build_formatter
from halcyon.data.sources import Access, Piece, Row, read_piece
from halcyon.data.sources.memory import keep_freed_memory
from halcyon.tokenizer import TokenizerDefinition, load
from halcyon_api.spec.sources import FormatSpec

UNKNOWN_FILE = -1
"""File of a document whose source has no files of its own."""
FORMAT_VERSION = 1
"""Raised when the same rows would give other tokens than before."""


@dataclass(frozen=True)
class Job:
    """All that the pieces of one source have in common; picklable."""

    tokenizer: TokenizerDefinition
    format: FormatSpec
    where: str
    """Which source, for sentences."""
    access: Access
    files: tuple[str, ...]
    """Addresses of the source's files, in the ledger's order."""
    token_type: str
    weight_type: str | None


class Worker:
    """Tokenizes pieces of one source."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._files = {uri: number for number, uri in enumerate(job.files)}
        self._formatter: Formatter = build_formatter(job.format, load(job.tokenizer), where=f"{job.where}.format")

    def __call__(self, piece: Piece) -> Tokenized:
        """The documents of a piece.

        Raises:
            BadConfiguration: A row cannot be read; the sentence names file, row and mend.
        """
        rows = read_piece(piece, self._job.access)
        documents = self._formatter(rows)
        return Tokenized(
            tokens=_joined([document.tokens for document in documents], self._job.token_type),
            lengths=np.array([len(document.tokens) for document in documents], np.int64),
            origins=np.array([self._origin(rows[document.row]) for document in documents], np.int64).reshape(-1, 2),
            weights=self._weights(documents),
            rows=piece.rows,
            empty_rows=piece.rows - len(documents) // self._formatter.documents_per_row,
            size_bytes=sum(document.size_bytes for document in documents),
        )

    def _origin(self, row: Row) -> tuple[int, int]:
        return self._files.get(row.file, UNKNOWN_FILE), row.number

    def _weights(self, documents: list[TokenizedDocument]) -> np.ndarray | None:
        if self._job.weight_type is None:
            return None
        return _joined(
            [np.ones(len(document.tokens)) if document.weights is None else document.weights for document in documents],
            self._job.weight_type,
        )


def _joined(arrays: list[np.ndarray], dtype: str) -> np.ndarray:
    return np.concatenate(arrays).astype(dtype) if arrays else np.empty(0, dtype)


_jobs: tuple[Job, ...] = ()
_workers: dict[int, Worker] = {}


def begin(jobs: tuple[Job, ...], niceness: int = 0) -> None:
    """Make this process ready, once; it ends with the process that started it, however that ends.

    Args:
        jobs: Of all sources whose pieces it may be given.
        niceness: How far it stands back behind other processes.
    """
    global _jobs
    # One processor is this worker's share: the fast encoder would start a thread for each.
    os.environ |= {"FASTOKENS_BPE_THREADS": "1", "RAYON_NUM_THREADS": "1"}
    keep_freed_memory()
    os.nice(niceness)
    threading.Thread(target=_leave_with_parent, name="halcyon-parent-watch", daemon=True).start()
    _jobs = jobs


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def tokenize(number: int, piece: Piece) -> Tokenized:
    """The documents of a piece of the source whose job has this number, in a process that `begin` has made ready."""
    worker = _workers.get(number)
    if worker is None:
        worker = _workers[number] = Worker(_jobs[number])
    return worker(piece)
