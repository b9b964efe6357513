"""Sources of text: turns the files that a run document names into rows, for many worker processes.

The stages are ``list_files`` (files with their order and version) -> ``pieces`` (units of work in order, cut cheaply by
one process) -> ``read_piece`` (the rows of a piece, in a worker). The same files give the same pieces and rows on every
machine.
"""

from halcyon.data.sources.access import Access, SourceFile
from halcyon.data.sources.cutting import pieces
from halcyon.data.sources.listing import list_files
from halcyon.data.sources.piece import Piece, SourceRow
from halcyon.data.sources.rows import read_piece, read_pieces
from halcyon.data.sources.stdlib import stdlib_modules

__all__ = [
    "Access",
    "Piece",
    "SourceFile",
    "SourceRow",
    "list_files",
    "pieces",
    "read_piece",
    "read_pieces",
    "stdlib_modules",
]
