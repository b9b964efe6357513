"""The alphabet of byte-level BPE, and the bytes of text that a spelt token stands for.

GPT-2 writes each byte as one printable character, so that a vocabulary can be kept as text: the printable characters of Latin-1 stand for
themselves, the other 68 bytes for the characters from U+0100 on (Radford et al., 2019, `encoder.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_PRINTABLE = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]

SPELLINGS = tuple(chr(byte) if byte in _PRINTABLE else chr(0x100 + _OTHERS.index(byte)) for byte in range(256))
"""The character for each byte."""

_TABLE = dict(enumerate(SPELLINGS))
_BYTE_FALLBACK = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""SentencePiece's sign for a space."""


def spell(data: bytes) -> str:
    """Bytes in the alphabet of byte-level BPE."""
    return data.decode("latin-1").translate(_TABLE)


def byte_level_sizes(tokens: Iterable[str]) -> list[int]:
    """Bytes that each token of a byte-level vocabulary stands for: one for each character."""
    return [len(token) for token in tokens]


def sentence_piece_sizes(tokens: Iterable[str]) -> list[int]:
    """Bytes that each token of a vocabulary in SentencePiece's spelling stands for.

    The space that SentencePiece puts before a text counts, so a document is measured one byte too long.
    """
    return [1 if _BYTE_FALLBACK.fullmatch(token) else len(token.replace(_SPACE, " ").removeprefix("##").encode()) for token in tokens]
