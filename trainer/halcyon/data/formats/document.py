"""What a format makes of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from halcyon.data.sources import SourceRow


@dataclass(eq=False, slots=True)  # not frozen: there are billions of them, and it would take half of the time to make one
class TokenizedDocument:
    """One document as token ids.

    Args:
        tokens: Ids, the one that begins a document included: int32, shape [tokens].
        weights: How much the prediction of each token counts in the loss, 0 to 1: float32, shape [tokens]. None: all count fully.
        size_bytes: Bytes of text that the ids stand for, in UTF-8.
        row: Which of the rows handed in it was made of.
    """

    tokens: np.ndarray
    weights: np.ndarray | None
    size_bytes: int
    row: int


@dataclass(eq=False)
class LongDocument:
    """A document whose text is too long to be held with all its ids.

    Args:
        tokens: Ids, part by part, those that begin and end a document included: int32, shape [tokens] each. Can be taken once.
        size_bytes: Bytes of the text that has been read, in UTF-8: grows as `tokens` are taken.
    """

    tokens: Iterator[np.ndarray]
    size_bytes: int = 0


class Formatter(Protocol):
    """Makes documents of rows; the same ones whatever rows are handed in together."""

    documents_per_row: int
    """Documents that a row makes that is not empty. So `rows - documents / documents_per_row` rows were empty, and left out."""

    def __call__(self, rows: Sequence[SourceRow]) -> list[TokenizedDocument]:
        """The documents of some rows, in order.

        Raises:
            BadConfiguration: A row is not what the format says. The sentence names its file and number.
        """
        ...
