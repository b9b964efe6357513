"""Texts that a template rendered: some of the special tokens that they spell are tokens, and others are words of a
message.

A rendered text is encoded as one text, because the ids of a part may depend on what stands before it: SentencePiece
puts a space at the beginning of a text only. What counts in the loss is known by characters, so each token comes with
the characters that it stands for.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

Range = tuple[int, int]
"""First character, and the character after the last one."""


class RenderedText(NamedTuple):
    """A text, and where it has special tokens."""

    text: str
    special: Sequence[Range]
    """The spellings in the text that are special tokens, in order."""
    spells: bool = False
    """Whether the text spells special tokens at other places too, where they are words."""


class EncodedText(NamedTuple):
    """The ids of a text, and the characters that each stands for. Several tokens may share a character."""

    tokens: np.ndarray
    """int32 [tokens]."""
    starts: np.ndarray
    """First character of each token: int64 [tokens]."""
    ends: np.ndarray
    """The character after the last one of each token: int64 [tokens]."""

    def within(self, ranges: Iterable[Range]) -> np.ndarray:
        """Whether each token stands for a character in one of the ranges: bool [tokens]."""
        inside = np.zeros(len(self.tokens), bool)
        for start, end in ranges:
            inside |= (self.starts < end) & (self.ends > start)
        return inside

    def has_only(self, ranges: Sequence[Range], is_special: np.ndarray) -> bool:
        """Whether each special token stands for one of the ranges.

        A tokenizer that changes a text before it looks for special tokens may find some that the text does not spell.

        Args:
            ranges: Where the text has special tokens, in order.
            is_special: Whether each id is a special token: bool [vocabulary].
        """
        special = np.flatnonzero(is_special[self.tokens])
        if not len(special) or not ranges:
            return not len(special)
        known = np.array(ranges, np.int64)
        place = np.minimum(np.searchsorted(known[:, 0], self.starts[special]), len(known) - 1)
        return bool(((self.starts[special] <= known[place, 0]) & (known[place, 1] <= self.ends[special])).all())


def encoded(tokens: Sequence[int], offsets: Sequence[Range]) -> EncodedText:
    """The ids of a text from a library's lists."""
    places = np.array(offsets, np.int64).reshape(-1, 2)
    return EncodedText(np.array(tokens, np.int32), places[:, 0], places[:, 1])


class Spellings:
    """Finds the special tokens that a text spells. If two begin at the same place, the longer one is taken."""

    def __init__(self, special: Iterable[str]) -> None:
        names = sorted(filter(None, special), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, names)) or r"(?!)")

    def rendered(self, text: str, is_word: Callable[[int, int], bool] = lambda start, end: False) -> RenderedText:
        """The text, with each special token that it spells, except where `is_word` says of its range that it is a
        word.
        """
        special: list[Range] = []
        spells, place = False, 0
        while (match := self._pattern.search(text, place)) is not None:
            if is_word(*match.span()):
                spells, place = True, match.start() + 1
            else:
                special.append(match.span())
                place = match.end()
        return RenderedText(text, special, spells)


def encode_between(
    texts: Sequence[RenderedText],
    special: Mapping[str, int],
    encode: Callable[[Sequence[str]], list[np.ndarray]],
    sizes: np.ndarray,
) -> list[EncodedText]:
    """Encode the text between the special tokens, for tokenizers whose ids of a part do not depend on the rest and keep
    all bytes.

    Args:
        texts: The texts.
        special: Id of each special token by its spelling.
        encode: Encodes texts without special tokens: int32 [tokens] each.
        sizes: Bytes of text of each id: int32 [vocabulary].
    """
    bounds = [[0, *(place for span in rendered.special for place in span), len(rendered.text)] for rendered in texts]
    parts = [
        rendered.text[start:end]
        for rendered, places in zip(texts, bounds, strict=True)
        for start, end in zip(places[::2], places[1::2], strict=True)
    ]
    encoded = iter(encode(parts))
    return [
        _encoded_between(rendered, list(islice(encoded, len(rendered.special) + 1)), special, sizes)
        for rendered in texts
    ]


def _encoded_between(
    rendered: RenderedText, parts: Sequence[np.ndarray], special: Mapping[str, int], sizes: np.ndarray
) -> EncodedText:
    text = rendered.text
    spellings = [text[start:end] for start, end in rendered.special]
    marks = np.array([special[spelling] for spelling in spellings], np.int32)
    tokens = np.concatenate(
        [ids for pair in zip(parts, [*marks[:, None], marks[:0]], strict=True) for ids in pair], dtype=np.int32
    )
    widths = sizes[tokens].astype(np.int64)
    places = np.cumsum([len(ids) for ids in parts[:-1]], dtype=np.int64) + np.arange(len(marks))
    widths[places] = [len(spelling.encode()) for spelling in spellings]
    ends = np.cumsum(widths)
    if text.isascii() or not len(tokens):
        return EncodedText(tokens, ends - widths, ends)
    owner = _owners(text)
    last = len(owner) - 1
    return EncodedText(
        tokens, owner[np.minimum(ends - widths, last)], owner[np.minimum(np.maximum(ends - 1, 0), last)] + 1
    )


def _owners(text: str) -> np.ndarray:
    """The character of each byte of a text in UTF-8: int64 [bytes]."""
    code_points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    widths = 1 + (code_points > 0x7F) + (code_points > 0x7FF) + (code_points > 0xFFFF)
    return np.repeat(np.arange(len(text), dtype=np.int64), widths)
