"""In which file a shard ends, so that a build that goes on after it opens no file before that one.

Where rows are lines, or rows of tables, how many a file has is known only to who has read it. Pieces tell it as they are cut, ahead of the
shards that they will be in; so it is noted then, and asked for when a shard is committed. It follows from the text alone, as shards do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from halcyon.data.cache.ledger import Ledger
from halcyon.data.sources import Piece
from halcyon.data.sources.piece import FilePlace, Files


class LastFile:
    """The files of rows that are in the making. One thread may cut pieces while another one commits.

    Args:
        ledger: What is committed; the first piece begins after its last row.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._rows = ledger.rows
        self._numbers = {file.uri: number for number, file in enumerate(ledger.files)}
        self._begun: deque[tuple[int, FilePlace | None]] = deque([(-1, ledger.last_file)])

    def noted(self, pieces: Iterator[Piece]) -> Iterator[Piece]:
        """The pieces, noted as they pass. Whole files are found without reading any, so those have no place."""
        first_row: int | None = None
        for piece in pieces:
            # Pieces count over all rows of the files, and a ledger from the first one wanted.
            first_row = piece.first_row - self._rows if first_row is None else first_row
            place = None if isinstance(piece.content, Files) else FilePlace(piece.file, piece.first_row - piece.number)
            self._begun.append((piece.first_row - first_row, place))
            yield piece

    def of_row_before(self, row: int) -> tuple[int, int] | None:
        """Number of the file of the last row before this one, as a ledger counts rows, and the rows of the source before that file.

        None: not known. What is before is forgotten.
        """
        while len(self._begun) > 1 and self._begun[1][0] < row:
            self._begun.popleft()
        place = self._begun[0][1]
        number = None if place is None else self._numbers.get(place.file)
        return None if place is None or number is None else (number, place.rows_before)
