"""From documents to ids through pieces of bounded length, whichever library encodes the pieces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np

from halcyon.tokenizer.cut import PIECE_CHARACTERS, Joint, pieces, pieces_of_parts

GROUP_CHARACTERS = 2**23
"""Pieces are handed to the library in groups of about so many characters, so that its buffers stay small whatever the documents."""


class PieceEncoder(Protocol):
    """Encodes texts of bounded length."""

    @property
    def name(self) -> str:
        """The library that does it."""
        ...

    def __call__(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of each text, int32, without special tokens."""
        ...


class DocumentEncoder:
    """Cuts documents that are too long, encodes the pieces in groups and joins their ids."""

    def __init__(self, encode_pieces: PieceEncoder, joint: Joint) -> None:
        self._encode_pieces = encode_pieces
        self.joint = joint

    def encode(self, text: str | bytes) -> np.ndarray:
        """Ids of one document: int32, shape [tokens]."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str | bytes]) -> list[np.ndarray]:
        """Ids of each document: int32, shape [tokens]."""
        encoded: list[list[np.ndarray]] = [[] for _ in texts]
        owned = ((index, piece) for index, text in enumerate(texts) for piece in pieces(text, self.joint, PIECE_CHARACTERS))
        for owners, group in _groups(owned):
            for owner, ids in zip(owners, self._encode_pieces(group), strict=True):
                encoded[owner].append(ids)
        return [ids[0] if len(ids) == 1 else np.concatenate(ids) for ids in encoded]

    def encode_parts(self, parts: Iterable[str | bytes]) -> Iterator[np.ndarray]:
        """Ids of one document that comes in parts, a group of pieces after the other: int32, shape [tokens] each."""
        for _, group in _groups((0, piece) for piece in pieces_of_parts(parts, self.joint, PIECE_CHARACTERS)):
            yield np.concatenate(self._encode_pieces(group))


def _groups(owned: Iterable[tuple[int, str]]) -> Iterator[tuple[list[int], list[str]]]:
    """Pieces and the documents they are of, so many together as are handed to the library at once."""
    owners: list[int] = []
    group: list[str] = []
    characters = 0
    for owner, piece in owned:
        owners.append(owner)
        group.append(piece)
        characters += len(piece)
        if characters >= GROUP_CHARACTERS:
            yield owners, group
            owners, group, characters = [], [], 0
    if group:
        yield owners, group
