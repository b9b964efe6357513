"""Cuts a source's files into pieces in a fixed order: the serial part of building a cache, which must be cheap.

The order and the bounds of the pieces depend only on the files. `start_row` and ``spec.rows`` skip pieces and trim the
first and the last one; they do not move other bounds. The parent never parses a row.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby

from halcyon.data.sources import named_dataset, parquet
from halcyon.data.sources.access import Access, SourceFile, parse_address
from halcyon.data.sources.decompress import decompressed, is_compressed
from halcyon.data.sources.failures import Unreadable, errors_at
from halcyon.data.sources.fields import columns_of, named_fields
from halcyon.data.sources.files import read_between, read_chunks
from halcyon.data.sources.lines import Block
from halcyon.data.sources.listing import where_of
from halcyon.data.sources.piece import (
    TARGET_BYTES,
    FilePlace,
    Files,
    LineRange,
    Lines,
    Piece,
    Rows,
    SpilledLines,
    Wanted,
)
from halcyon.data.sources.row_forms import Begun, begin_delimited, begin_json, blocks, offset_of
from halcyon.data.sources.spill_file import SpillFile
from halcyon_api.spec.sources import DataSourceSpec

_MAX_FILES = 1024
_Cut = Callable[[SourceFile, int, Wanted], Generator[Piece, None, int]]
"""Yields the wanted pieces of a file, given the number of its first row; returns its number of rows, at least up to the
wanted end.
"""


def pieces(
    source: DataSourceSpec,
    files: Sequence[SourceFile],
    access: Access,
    *,
    start_row: int = 0,
    begin: FilePlace | None = None,
    target_bytes: int = TARGET_BYTES,
) -> Iterator[Piece]:
    """The pieces of a source, in order.

    Args:
        source: The source; its ``rows`` apply.
        files: What `list_files` returned.
        access: How stores are reached.
        start_row: First row, counted over all files.
        begin: A file that begins at or before that row, known from an earlier build; earlier files are not opened.
        target_bytes: Approximate bytes of text per piece; decides the bounds of the pieces.

    Raises:
        BadConfiguration: A file was deleted, changed, is truncated or has another schema; or there are no rows.
        DataUnreachable: A store does not answer, or denies access.
    """
    where = where_of(source)
    with errors_at(where):
        wanted = Wanted(max(source.rows.start, start_row), sys.maxsize if source.rows.end is None else source.rows.end)
        if source.text is not None or source.stdlib is not None:
            total = yield from _whole_files(where, files, wanted, target_bytes)
        else:
            total = yield from _by_file(_cutter(source, where, access, target_bytes), files, wanted, begin)
        if total == 0:
            raise Unreadable("its files have no rows; give files that are not empty, or leave the source out")
        if source.rows.start >= total:
            raise Unreadable(
                f"rows.start is {source.rows.start}, but there are only {total} rows; lower it, or leave the source out"
            )


def _cutter(source: DataSourceSpec, where: str, access: Access, target_bytes: int) -> _Cut:
    columns = partial(columns_of, source.format)
    if source.jsonl is not None:
        begin_rows = partial(begin_json, named_fields(source.format))
        return lambda file, first, wanted: _text_pieces(where, file, first, wanted, access, target_bytes, begin_rows)
    if source.csv is not None or source.tsv is not None:
        begin = partial(begin_delimited, "," if source.csv is not None else "\t", columns)
        return lambda file, first, wanted: _text_pieces(where, file, first, wanted, access, target_bytes, begin)
    if source.parquet is not None:
        return lambda file, first, wanted: parquet.cut(where, file, first, wanted, columns, access, target_bytes)
    if source.hugging_face is not None:
        spec = source.hugging_face
        return lambda file, first, wanted: named_dataset.cut(where, spec, file, first, wanted, columns, target_bytes)
    raise TypeError(f"no reader for a data source of kind {source.kind}")


def _by_file(
    cut: _Cut, files: Sequence[SourceFile], wanted: Wanted, begin: FilePlace | None
) -> Generator[Piece, None, int]:
    first = 0
    if begin is not None and (known := [number for number, file in enumerate(files) if file.uri == begin.file]):
        files, first = files[known[0] :], begin.rows_before
    for file in files:
        if first >= wanted.end:
            break
        first += yield from cut(file, first, wanted)
    return first


def _text_pieces(
    where: str,
    file: SourceFile,
    first: int,
    wanted: Wanted,
    access: Access,
    target_bytes: int,
    begin: Callable[[str, Iterable[bytes | memoryview]], Begun],
) -> Generator[Piece, None, int]:
    number = 0
    in_place = parse_address(file.uri).scheme == "file" and not is_compressed(file.uri)
    rows, begun, text = begin(file.uri, decompressed(file.uri, read_chunks(file, access)))
    offset = begun
    for block in blocks(rows, file.uri, text, target_bytes, keep=not in_place):
        start, end = wanted.within(first + number, block.rows)
        if start < end:
            low, high = 0, block.size_bytes
            if start > 0:
                low = offset_of(rows, file.uri, _text(file, offset, block, access), start, first=offset == begun)
            if end < block.rows:
                high = offset_of(rows, file.uri, _text(file, offset, block, access), end, first=offset == begun)
            content = _content(file, offset, block, rows, low, high)
            yield Piece(where, file.uri, first + number + start, end - start, number + start, content)
        elif isinstance(block.text, SpillFile):
            block.text.discard()
        number, offset = number + block.rows, offset + block.size_bytes
        if first + number >= wanted.end:
            break
    return number


def _text(file: SourceFile, offset: int, block: Block, access: Access) -> Iterator[bytes]:
    """The text of a block that begins at an offset of a file."""
    return block.chunks() if block.text is not None else read_between(file, offset, offset + block.size_bytes, access)


def _content(
    file: SourceFile, offset: int, block: Block, rows: Rows, low: int, high: int
) -> Lines | LineRange | SpilledLines:
    """The bytes [low, high) of a block that begins at an offset of a file."""
    if block.text is None:
        return LineRange(file, offset + low, offset + high, rows)
    return (
        SpilledLines(block.text, low, high, rows)
        if isinstance(block.text, SpillFile)
        else Lines(block.text[low:high], rows)
    )


def _whole_files(
    where: str, files: Sequence[SourceFile], wanted: Wanted, target_bytes: int
) -> Generator[Piece, None, int]:
    batch_of = _batch_numbers(files, target_bytes)
    for _, numbers in groupby(range(len(files)), key=batch_of.__getitem__):
        batch = list(numbers)
        start, end = wanted.within(batch[0], len(batch))
        if start < end:
            kept = tuple(files[number] for number in batch[start:end])
            yield Piece(where, kept[0].uri, batch[start], len(kept), 0, Files(kept))
    return len(files)


def _batch_numbers(files: Sequence[SourceFile], target_bytes: int) -> list[int]:
    numbers: list[int] = []
    batch, size_bytes, count = 0, 0, 0
    for file in files:
        if count and (size_bytes + file.size_bytes > target_bytes or count == _MAX_FILES):
            batch, size_bytes, count = batch + 1, 0, 0
        size_bytes, count = size_bytes + file.size_bytes, count + 1
        numbers.append(batch)
    return numbers
