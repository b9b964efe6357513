"""Encodes documents as pieces of bounded length, with any library."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Protocol

import numpy as np

from halcyon.tokenizer.cut import PIECE_CHARACTERS, CutRule, pieces, pieces_of_parts

GROUP_CHARACTERS = 2**23
"""Pieces are passed to the library in groups of about this number of characters, so that its buffers stay small for any
documents.
"""


class PieceEncoder(Protocol):
    """Encodes texts of bounded length."""

    @property
    def name(self) -> str:
        """Name of the library."""
        ...

    def __call__(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of each text, int32, without special tokens."""
        ...


class DocumentEncoder:
    """Cuts long documents, encodes the pieces in groups and joins their ids."""

    def __init__(self, encode_pieces: PieceEncoder, joint: CutRule) -> None:
        self._encode_pieces = encode_pieces
        self.joint = joint

    def encode(self, text: str | bytes) -> np.ndarray:
        """Ids of one document: int32, shape [tokens]."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str | bytes]) -> list[np.ndarray]:
        """Ids of each document: int32, shape [tokens]."""
        counts: list[int] = []

        def cut() -> Iterator[str]:
            for text in texts:
                counts.append(0)
                for piece in pieces(text, self.joint, PIECE_CHARACTERS):
                    counts[-1] += 1
                    yield piece

        encoded = [ids for group in _groups(cut()) for ids in self._encode_pieces(group)]
        if len(encoded) == len(texts):
            return encoded
        parts = iter(encoded)
        return [next(parts) if count == 1 else np.concatenate(list(islice(parts, count))) for count in counts]

    def encode_parts(self, parts: Iterable[str | bytes]) -> Iterator[np.ndarray]:
        """Ids of one document that comes in parts, one array per group of pieces: int32, shape [tokens] each."""
        for group in _groups(pieces_of_parts(parts, self.joint, PIECE_CHARACTERS)):
            yield np.concatenate(self._encode_pieces(group))


def _groups(cut: Iterable[str]) -> Iterator[list[str]]:
    """Groups of pieces for one call of the library each."""
    group: list[str] = []
    characters = 0
    for piece in cut:
        group.append(piece)
        characters += len(piece)
        if characters >= GROUP_CHARACTERS:
            yield group
            group, characters = [], 0
    if group:
        yield group
