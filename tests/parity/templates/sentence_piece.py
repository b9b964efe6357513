"""Writes a SentencePiece model of a given vocabulary, whose trainer would choose the pieces itself.

The numbers of the fields are those of SentencePiece's `sentencepiece_model.proto`.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping, Sequence

NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6


def sentence_piece_model(vocabulary: Mapping[str, int], ranked: Sequence[str], control: Collection[str]) -> bytes:
    """A BPE model that falls back to bytes, changes no character of a text, and puts a space before it.

    Args:
        vocabulary: Id of each piece.
        ranked: The pieces of characters, those that are merged first in front.
        control: The special tokens.
    """
    scores = {piece: -float(place) for place, piece in enumerate(ranked)}
    data = b""
    for piece in sorted(vocabulary, key=vocabulary.__getitem__):
        kind = CONTROL if piece in control else NORMAL if piece in scores else BYTE
        data += _message(
            1, _text(1, piece) + _float(2, scores.get(piece, 0.0)) + _number(3, UNKNOWN if piece == "<unk>" else kind)
        )
    trainer = _number(3, 2) + _number(4, len(vocabulary)) + _number(35, 1)
    ids = _number(40, 0) + _number(41, 1) + _number(42, 2) + _number(43, -1)
    normalizer = _text(1, "identity") + _number(3, 1) + _number(4, 0) + _number(5, 1)
    return data + _message(2, trainer + ids) + _message(3, normalizer)


def _variable(number: int) -> bytes:
    number &= 2**64 - 1
    data = b""
    while number > 127:
        data, number = data + bytes([number & 127 | 128]), number >> 7
    return data + bytes([number])


def _number(field: int, value: int) -> bytes:
    return _variable(field << 3) + _variable(value)


def _float(field: int, value: float) -> bytes:
    return _variable(field << 3 | 5) + struct.pack("<f", value)


def _message(field: int, data: bytes) -> bytes:
    return _variable(field << 3 | 2) + _variable(len(data)) + data


def _text(field: int, text: str) -> bytes:
    return _message(field, text.encode())
