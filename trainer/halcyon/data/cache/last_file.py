"""Finds the file in which a shard ends, so that a resumed build does not open earlier files.

If rows are lines or rows of tables, the number of rows of a file is known only after reading it. Pieces carry this
information when they are cut, which is before their shard is committed. So it is recorded then and looked up at the
commit. It depends only on the text, as shards do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from halcyon.data.cache.ledger import Ledger
from halcyon.data.sources import Piece
from halcyon.data.sources.piece import FilePlace, Files


class LastFile:
    """The files of rows that are cut but not committed. One thread may cut pieces while another commits.

    Args:
        ledger: The committed state; the first piece begins after its last row.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._rows = ledger.rows
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

    def of_row_before(self, row: int) -> tuple[int, int] | None:
        """Number of the file of the last row before ``row``, as a ledger counts rows, and the rows of the source before
        that file.

        None: not known. Forgets earlier files.
        """
        while len(self._begun) > 1 and self._begun[1][0] < row:
            self._begun.popleft()
        place = self._begun[0][1]
        number = None if place is None else self._numbers.get(place.file)
        return None if place is None or number is None else (number, place.rows_before)
