"""Cuts very long documents at places that do not change their ids.

The libraries hold a whole text and all its tokens in memory, and some need time or memory that grows faster than the
text. Pieces of bounded length limit both. A cut is safe if the pieces, encoded separately, give the ids of the whole
text. For byte-level tokenizers this holds where all split patterns in use end one part and begin another without
looking back: after a letter or a digit, and before white space or punctuation. Two kinds of characters are excluded:
the apostrophe (some patterns split ``don't`` into three letters, the apostrophe and one letter) and marks that combine
with the letter before them. SentencePiece adds a space before every text, so there a cut replaces a space.

``find_joint`` tests at loading which of the two rules holds. A text without a safe place for 2**18 characters - one
very long word, or only spaces - is cut anyway, and only there may ids differ from those of the uncut text. The rules
are part of the tokenizer's fingerprint. A rule is a pattern; the text that it matches is in neither piece.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from halcyon.tokenizer.probe import PROSE

PieceEncoder = Callable[[Sequence[str]], list[np.ndarray]]
"""Encodes texts of bounded length: ids of each text, int32, without special tokens."""

PIECE_CHARACTERS = 2**18
"""Texts up to twice this length are never cut; others are cut at the first safe place after this number of characters.
"""

CUT_BETWEEN = re.compile(
    r"(?<=[0-9A-Za-z\u3041-\u30ff\u4e00-\u9fff\uac00-\ud7a3])(?=[ \t\n\r,.;:()<>=\"\u3001\u3002\uff0c])"
)
"""For byte-level tokenizers: no text is lost between the pieces.

Letters of Latin, kana, Han and Hangul; their commas and full stops.
"""

CUT_AT_SPACE = re.compile(r"(?<=[0-9A-Za-z]) (?=[0-9A-Za-z])")
"""For SentencePiece: one space is lost, and the tokenizer adds it again at the beginning of the next piece."""

GROUP_CHARACTERS = 2**23
"""Pieces are passed to the library in groups of about this number of characters, so that its buffers stay small for any
documents.
"""


def pieces(text: str | bytes, joint: re.Pattern[str], piece_characters: int = PIECE_CHARACTERS) -> Iterator[str]:
    """The text in pieces of at most ``2 * piece_characters`` characters. The end of a piece depends only on its own
    text.

    Raises:
        UnicodeDecodeError: The bytes are not UTF-8.
    """
    text = text if isinstance(text, str) else text.decode()
    window, position = 2 * piece_characters, 0
    while len(text) - position > window:
        place = joint.search(text, position + piece_characters, position + window)
        end, following = (position + window, position + window) if place is None else place.span()
        yield text[position:end]
        position = following
    yield text[position:]


def find_joint(encode: PieceEncoder, sample: str = PROSE) -> re.Pattern[str]:
    """The joint with which the pieces of a sample have the ids of the whole sample; ``CUT_BETWEEN`` if neither joint
    passes this test.
    """
    (whole,) = encode([sample])
    for joint in (CUT_BETWEEN, CUT_AT_SPACE):
        if np.array_equal(np.concatenate(encode(list(pieces(sample, joint, 128)))), whole):
            return joint
    return CUT_BETWEEN


@dataclass(eq=False)
class DocumentEncoder:
    """Cuts long documents, encodes the pieces in groups and joins their ids."""

    encode_pieces: PieceEncoder
    joint: re.Pattern[str]

    def encode_batch(self, texts: Sequence[str | bytes]) -> list[np.ndarray]:
        """Ids of each document: int32, shape [tokens]."""
        counts: list[int] = []

        def cut() -> Iterator[str]:
            for text in texts:
                counts.append(0)
                for piece in pieces(text, self.joint):
                    counts[-1] += 1
                    yield piece

        parts = iter([ids for group in _groups(cut()) for ids in self.encode_pieces(group)])
        return [next(parts) if count == 1 else np.concatenate(list(islice(parts, count))) for count in counts]


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
