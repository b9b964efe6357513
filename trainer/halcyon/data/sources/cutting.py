"""Cuts a source's files into pieces in a fixed order: the serial part of building a cache, which must be cheap.

The order and the bounds of the pieces depend only on the files. `start_row` and ``spec.rows`` skip pieces and trim the
first and the last one; they do not move other bounds. The parent never parses a row.
"""

import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise

from halcyon.data.sources import named_dataset, parquet
from halcyon.data.sources.access import Access, SourceFile, parse_address
from halcyon.data.sources.decompress import decompressed, is_compressed
from halcyon.data.sources.failures import Unreadable, errors_at, may_skip
from halcyon.data.sources.fields import named_fields
from halcyon.data.sources.files import read_between, read_chunks
from halcyon.data.sources.listing import named_files, where_of
from halcyon.data.sources.piece import (
    TARGET_BYTES,
    BadFile,
    FilePart,
    FilePlace,
    Files,
    LineRange,
    Lines,
    Piece,
    Wanted,
)
from halcyon.data.sources.row_ends import cut_rows, offset_of_row
from halcyon.data.sources.row_forms import Begun, begin_delimited, begin_json, scanner_of
from halcyon_api.spec.sources import DataSourceSpec

_MAX_FILES = 1024
_MakePiece = Callable[..., Piece]
"""Makes a piece of a source, without `where` and the flags."""
_Cut = Callable[[SourceFile, Wanted], Generator[FilePart, None, int]]
"""Yields the wanted parts of a file, whose rows are counted in the file; returns its number of rows, at least up to the
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
        make = partial(Piece, where, skips_files=source.on_bad_file == "skip", skips_rows=source.on_bad_row == "skip")
        if source.text is not None or source.stdlib is not None:
            named = named_files(source) if source.text is not None else frozenset(file.uri for file in files)
            total = yield from _whole_files(make, files, named, wanted, target_bytes)
        else:
            total = yield from _by_file(make, _cutter(source, access, target_bytes), files, wanted, begin)
        if total == 0:
            raise Unreadable("its files have no rows; give files that are not empty, or leave the source out")
        if source.rows.start >= total:
            raise Unreadable(
                f"rows.start is {source.rows.start}, but there are only {total} rows; lower it, or leave the source out"
            )


def _cutter(source: DataSourceSpec, access: Access, target_bytes: int) -> _Cut:
    if source.parquet is not None:
        return partial(parquet.cut, form=source.format, access=access, target_bytes=target_bytes)
    if source.hugging_face is not None:
        return partial(named_dataset.cut, spec=source.hugging_face, form=source.format, target_bytes=target_bytes)
    if source.jsonl is not None:
        begin = partial(begin_json, named_fields(source.format))
    else:
        begin = partial(begin_delimited, "," if source.csv is not None else "\t", source.format)
    return partial(_text_parts, begin=begin, access=access, target_bytes=target_bytes)


def _by_file(
    make: _MakePiece, cut: _Cut, files: Sequence[SourceFile], wanted: Wanted, begin: FilePlace | None
) -> Generator[Piece, None, int]:
    first = 0
    if begin is not None and (known := [number for number, file in enumerate(files) if file.uri == begin.file]):
        files, first = files[known[0] :], begin.rows_before
    for file in files:
        if first >= wanted.end:
            break
        parts = cut(file, wanted.after(first))
        while True:
            try:
                part = next(parts)
            except StopIteration as end:
                first += end.value
                break
            except Unreadable as bad:
                rest = make(file.uri, first + (bad.rows or 0), 1, bad.rows or 0, BadFile(str(bad)))
                if not rest.skips_files or bad.rows is None or not may_skip(bad):
                    raise
                start, end = wanted.within(rest.first_row, 1)
                if start < end:
                    yield rest
                first = rest.first_row + 1
                break
            yield make(file.uri, first + part.number, part.rows, part.number, part.content)
    return first


def _text_parts(
    file: SourceFile,
    wanted: Wanted,
    *,
    begin: Callable[[str, Iterable[bytes | memoryview]], Begun],
    access: Access,
    target_bytes: int,
) -> Generator[FilePart, None, int]:
    number = 0
    try:
        in_place = parse_address(file.uri).scheme == "file" and not is_compressed(file.uri)
        rows, begun, text = begin(file.uri, decompressed(file.uri, read_chunks(file, access)))
        offset = begun
        scanner = scanner_of(rows, file.uri)
        for block in cut_rows(text, scanner, target_bytes, keep=not in_place, file=file.uri):
            start, end = wanted.within(number, block.rows)
            if start < end:
                low, high = (
                    block.size_bytes
                    if row == block.rows
                    else offset_of_row(
                        read_between(file, offset, offset + block.size_bytes, access)
                        if block.text is None
                        else (block.text,),
                        scanner_of(rows, file.uri, inside=offset > begun),
                        row,
                    )
                    for row in (start, end)
                )
                content = (
                    LineRange(file, offset + low, offset + high, rows)
                    if block.text is None
                    else Lines(block.text[low:high], rows)
                )
                yield FilePart(number + start, end - start, content)
            number, offset = number + block.rows, offset + block.size_bytes
            if number >= wanted.end:
                break
    except Unreadable as bad:
        bad.rows = number
        raise
    return number


def _whole_files(
    make: _MakePiece, files: Sequence[SourceFile], named: frozenset[str], wanted: Wanted, target_bytes: int
) -> Generator[Piece, None, int]:
    for first, end in pairwise([*_first_files(files, target_bytes), len(files)]):
        start, stop = wanted.within(first, end - first)
        if start < stop:
            kept = tuple(files[first + start : first + stop])
            yield make(kept[0].uri, first, len(kept), 0, Files(kept, named & {file.uri for file in kept}))
    return len(files)


def _first_files(files: Sequence[SourceFile], target_bytes: int) -> Iterator[int]:
    """The number of the first file of each piece."""
    first, size_bytes = 0, 0
    for number, file in enumerate(files):
        size_bytes += file.size_bytes
        if number == 0 or (size_bytes > target_bytes or number - first == _MAX_FILES):
            first, size_bytes = number, file.size_bytes
            yield number
