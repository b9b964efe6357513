"""Builds the cache of one source: pieces are tokenized in parallel, joined in order, cut into shards, and committed
shard by shard.

The bounds of pieces and shards depend only on the text, not on the number of workers or on time. So a build that was
killed and resumed writes the same bytes as an undisturbed one. A shard ends with a part of a piece, so a document lies
in one shard. The files of a shard are written first, then the ledger by compare-and-swap. A shard that is not in
the ledger does not exist, and a builder that was replaced by another one fails at its next commit.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from halcyon.data.cache import work
from halcyon.data.cache.ledger import LEDGER_KEY, Ledger, ShardEntry, decode, encode
from halcyon.data.cache.pool import TokenizerPool
from halcyon.data.cache.shards import Counts, Shard, ShardBuilder
from halcyon.data.sources import Piece
from halcyon.data.sources.piece import FilePlace, Files
from halcyon.host.errors import BadConfiguration
from halcyon.host.linux import freed_memory_kept
from halcyon.host.storage.store import Store
from halcyon_api.counting import counted
from halcyon_api.status.sources import Built

SMALL_BYTES = 32 * 2**20
"""A smaller source is tokenized faster than a pool of processes starts."""


class LastFile:
    """Finds the file in which a shard ends, so that a resumed build does not open earlier files. One thread may cut
    pieces while another commits.

    If rows are lines or rows of tables, the number of rows of a file is known only after reading it. Pieces carry this
    information when they are cut, which is before their shard is committed. So it is recorded then and looked up at
    the commit. It depends only on the text, as shards do.

    Args:
        ledger: The committed state; the first piece begins after its last row.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._rows = ledger.counts.rows
        self._numbers = {file.uri: number for number, file in enumerate(ledger.files)}
        self._begun: deque[tuple[int, FilePlace | None]] = deque([(-1, ledger.last_file)])

    def noted(self, pieces: Iterator[Piece]) -> Iterator[Piece]:
        """The pieces; records the file of each.

        Pieces of whole files record none, because such files are found without reading.
        """
        first_row: int | None = None
        for piece in pieces:
            # Pieces count all rows of the files; a ledger counts from the first wanted row.
            first_row = piece.first_row - self._rows if first_row is None else first_row
            place = None if isinstance(piece.content, Files) else FilePlace(piece.file, piece.first_row - piece.number)
            self._begun.append((piece.first_row - first_row, place))
            yield piece

    def of_row_before(self, row: int) -> tuple[int | None, int | None]:
        """Number of the file of the last row before ``row``, as a ledger counts rows, and the rows of the source before
        that file.

        None of both: not known. Forgets earlier files.
        """
        while len(self._begun) > 1 and self._begun[1][0] < row:
            self._begun.popleft()
        place = self._begun[0][1]
        number = None if place is None else self._numbers.get(place.file)
        return (None, None) if place is None or number is None else (number, place.rows_before)


class Replaced(Exception):
    """Another builder has written the ledger."""


@dataclass
class SourceBuild:
    """The build of one source.

    Args:
        name: The source's name.
        store: The cache's root.
        job: The settings common to all its pieces; one of the pool's jobs.
        shard_tokens: A shard is closed after the part with which it reaches this number of tokens.
        max_skipped: Largest share of the files, and of the rows, that may be left out because they cannot be read.
        pool: Tokenizes the pieces.
        report: Called after every part of a piece; an exception in it ends the build.
    """

    name: str
    store: Store
    job: work.Job
    shard_tokens: int
    max_skipped: float
    pool: TokenizerPool
    report: Callable[[Built], object]

    def run(self, ledger: Ledger, pieces: Iterator[Piece], *, text_bytes: int) -> Iterator[Ledger]:
        """Continue from a ledger to the end of the source. Yields the ledger after every commit; the last one is
        finished.

        Args:
            ledger: The committed state; `pieces` begin after its last row.
            pieces: The remaining pieces of the source.
            text_bytes: Approximate size of the source.

        Raises:
            BadConfiguration: The source cannot be read, or has no text, or too much of it cannot be read.
            Replaced: Another builder has written the ledger.
        """
        files = LastFile(ledger)
        shard = ShardBuilder(ledger.content_state)
        passed = ledger.counts
        commit: Future[Ledger] | None = None  # of the previous shard, while this one is filled
        with freed_memory_kept(), ThreadPoolExecutor(1, thread_name_prefix="halcyon-shards") as writer:
            for part in self.pool.tokenized(self.job, files.noted(pieces), in_processes=text_bytes >= SMALL_BYTES):
                shard.add(part)
                coming = passed.plus(shard.counts)
                self._limit(coming, ledger)
                full = shard.counts.tokens >= self.shard_tokens
                if commit is not None and (full or commit.done()):
                    ledger, commit = commit.result(), None
                    yield ledger
                if full:
                    passed = coming
                    commit = writer.submit(self._commit, ledger, shard.take(), files)
                self.report(self._built(coming, ledger))
            if commit is not None:
                ledger = commit.result()
            if shard.parts:
                ledger = self._commit(ledger, shard.take(), files)
            finished, counts = ledger.but(finished=True), ledger.counts
            self._limit(counts, finished)
            if counts.tokens == 0:
                raise BadConfiguration(f"{self.job.where}: {_no_text(counts, len(ledger.files))}")
            ledger = self._swap(ledger, finished)
            self.report(self._built(counts, ledger))
            yield ledger

    def _commit(self, ledger: Ledger, shard: Shard, files: LastFile) -> Ledger:
        path = f"{self.name}/shards/{len(ledger.shards):06d}.{shard.sha256[:16]}/"
        for name, content in shard.files():
            self.store.write(f"{path}{name}", content)
        counts: dict[str, Any] = shard.counts._asdict() | {"skipped": shard.counts.skipped or None}
        last_file, rows_before_last_file = files.of_row_before(ledger.counts.rows + shard.counts.rows)
        entry = ShardEntry(
            path=path,
            **counts,
            last_file=last_file,
            rows_before_last_file=rows_before_last_file,
            sha256=shard.sha256,
            content_sha256=shard.content_sha256,
        )
        return self._swap(ledger, ledger.but(shards=(*ledger.shards, entry)))

    def _limit(self, counts: Counts, ledger: Ledger) -> None:
        files, most = len(ledger.files), self.max_skipped
        if problem := counts.skipped.too_many(counts.rows, files, most, finished=ledger.finished):
            raise BadConfiguration(f"{self.job.where}: {problem}")

    def _swap(self, before: Ledger, after: Ledger) -> Ledger:
        key = f"{self.name}/{LEDGER_KEY}"
        value = self.store.read(key)
        # Compared as documents, because another version may write the same content as other bytes.
        if value.data is not None and decode(value.data) != before:
            raise Replaced(key)
        if self.store.swap(key, encode(after), value.generation) is None and self.store.read(key).data != encode(after):
            raise Replaced(key)
        return after

    def _built(self, counts: Counts, ledger: Ledger) -> Built:
        return Built(
            source=self.name,
            rows=counts.rows,
            documents=counts.documents,
            tokens=counts.tokens,
            size_bytes=counts.size_bytes,
            shards=len(ledger.shards),
            finished=ledger.finished,
        )


def _no_text(counts: Counts, files: int) -> str:
    """Why a source without a token has none, and the fix."""
    if counts.rejected_rows:
        return "the label of each row is false, so there is no answer to learn; give rows whose label is true"
    if binary := counts.skipped.binary_files:
        of_all, verb = counted(files, "file"), "is" if binary == 1 else "are"
        return f"there is no text in {of_all}, of which {binary:,} {verb} binary: {counts.skipped.binary_examples[0]}"
    return "all its documents are empty; give it some text"
