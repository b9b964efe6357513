"""Where a very long document may be cut so that its ids stay the same.

The libraries hold a whole text and all its tokens at once, and a few of them need time or memory that grows faster than the text. Pieces
of a bounded length keep both in hand. A cut changes nothing if the pieces, encoded one by one, give the ids of the whole. That is so where
the split patterns of all byte-level tokenizers in use end one part and begin another without looking back: after a letter or a digit,
before white space or punctuation that is neither an apostrophe (``don't`` is three letters, one sign and one letter to some) nor a mark
that joins the letter before it. SentencePiece puts a space before every text, so there a cut takes the place of a space.

Which of the two holds is tried at loading (``find_joint``). A text with no such place for 2**18 characters - one endless word, or nothing
but spaces - is cut at that length all the same: only there may ids differ from those of the uncut text. The rules are part of the
tokenizer's fingerprint.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

PIECE_CHARACTERS = 2**18
"""Texts up to twice as long are never cut; others are cut at the first safe place after this number of characters."""

_PART_LENGTH = 2**20


@dataclass(frozen=True, slots=True)
class Joint:
    """A place where a text may be cut: the match of a pattern, which goes to neither piece."""

    pattern: re.Pattern[str]


BETWEEN = Joint(re.compile(r"(?<=[0-9A-Za-z\u3041-\u30ff\u4e00-\u9fff\uac00-\ud7a3])(?=[ \t\n\r,.;:()<>=\"\u3001\u3002\uff0c])"))
"""Nothing is lost between the pieces: for byte-level tokenizers. Letters of Latin, kana, Han and Hangul; their commas and stops."""

INSTEAD_OF_SPACE = Joint(re.compile(r"(?<=[0-9A-Za-z]) (?=[0-9A-Za-z])"))
"""One space is lost, which the tokenizer puts back at the beginning of the next piece: for SentencePiece."""


def pieces(text: str | bytes, joint: Joint, piece_characters: int = PIECE_CHARACTERS) -> Iterator[str]:
    """The text in pieces of at most twice ``piece_characters``, each decided by no more than what it holds.

    Raises:
        UnicodeDecodeError: The bytes are not UTF-8.
    """
    if len(text) <= 2 * piece_characters:
        yield text if isinstance(text, str) else text.decode()
        return
    try:
        yield from pieces_of_parts(in_parts(text), joint, piece_characters)
    except UnicodeDecodeError:
        if isinstance(text, bytes):
            text.decode()  # raises the same with the position in the whole
        raise


def pieces_of_parts(parts: Iterable[str | bytes], joint: Joint, piece_characters: int = PIECE_CHARACTERS) -> Iterator[str]:
    """The same pieces of a text that comes in parts, wherever these are cut; no more than a part and a piece is held.

    Raises:
        UnicodeDecodeError: The bytes are not UTF-8; the position is that in a part.
    """
    window = 2 * piece_characters
    buffer, position = "", 0
    for part in _decoded(parts):
        buffer, position = buffer[position:] + part, 0
        while len(buffer) - position > window:
            place = joint.pattern.search(buffer, position + piece_characters, position + window)
            end, following = (position + window, position + window) if place is None else place.span()
            yield buffer[position:end]
            position = following
    yield buffer[position:]


def in_parts(text: str | bytes) -> Iterator[str | bytes]:
    """A text that is in memory in parts of bounded length."""
    for start in range(0, len(text), _PART_LENGTH):
        yield text[start : start + _PART_LENGTH]


def _decoded(parts: Iterable[str | bytes]) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    for part in parts:
        yield part if isinstance(part, str) else decoder.decode(part)
    yield decoder.decode(b"", final=True)


def find_joint(encode: Callable[[str], np.ndarray], sample: str) -> Joint:
    """The joint at which a tokenizer's pieces give the ids of the whole, tried on a sample; ``BETWEEN`` if none is seen to."""
    whole = encode(sample)
    for joint in (BETWEEN, INSTEAD_OF_SPACE):
        if np.array_equal(np.concatenate([encode(piece) for piece in pieces(sample, joint, 128)]), whole):
            return joint
    return BETWEEN
