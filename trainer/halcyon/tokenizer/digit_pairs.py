"""Encodes numbers in groups of two digits at the speed of a split pattern that the fast encoder knows.

``fastokens`` has hand-written scanners for the usual patterns; any other pattern runs through a regular expression
engine, five times slower. The pattern of tokenizers trained by Halcyon (``\\p{N}{1,2}``) is not a usual one. But it
differs from Qwen 2's pattern (``\\p{N}``), which is known, only in that it groups digits in pairs. BPE turns two digits
into one token if that merge exists, else into two tokens. So texts are encoded digit by digit, and then the digits of
each run are paired from the left, which gives the same ids. Two kinds of text go through the engine: texts with numbers
of other scripts, whose digits have several bytes, and texts with characters that are newer than Python's Unicode
tables, because they may be numbers.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from functools import cache

import fastokens
import numpy as np

from halcyon.tokenizer.bpe import SPLIT_PATTERN
from halcyon.tokenizer.encoders import FastEncoder, encode_flat, split_at
from halcyon.tokenizer.text import PieceEncoder

_DIGIT_BY_DIGIT = SPLIT_PATTERN.replace(r"\p{N}{1,2}", r"\p{N}")


class DigitPairEncoder:
    """Encodes digit by digit with ``fastokens``, then pairs the digits."""

    name = "fastokens"

    def __init__(
        self, by_digit: fastokens.Tokenizer, by_pattern: PieceEncoder, digit_of: np.ndarray, merged: np.ndarray
    ) -> None:
        """
        Args:
            by_digit: The tokenizer with the pattern that splits every digit.
            by_pattern: Encodes with the original pattern.
            digit_of: Digit of each id, -1 for ids that are not a digit: int8, shape [vocabulary].
            merged: Id of each pair of digits, -1 if there is no such token: int32, shape [10, 10].
        """
        self._by_digit = by_digit
        self._by_pattern = by_pattern
        self._digit_of = digit_of
        self._merged = merged

    def __call__(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of each text, int32, without special tokens."""
        odd = [index for index, text in enumerate(texts) if has_other_numbers(text)]
        if not odd:
            return self._pair(texts)
        others = set(odd)
        by_pattern = iter(self._by_pattern([texts[index] for index in odd]))
        paired = iter(self._pair([text for index, text in enumerate(texts) if index not in others]))
        return [next(by_pattern if index in others else paired) for index in range(len(texts))]

    def _pair(self, texts: Sequence[str]) -> list[np.ndarray]:
        if not texts:
            return []
        ids, ends = encode_flat(self._by_digit, texts)
        digits = np.take(self._digit_of, ids)
        first = pairs_of(np.flatnonzero(digits >= 0), ends)
        merged = self._merged[digits[first], digits[first + 1]]
        first, merged = first[merged >= 0], merged[merged >= 0]
        if first.size:
            ids = ids.copy()
            ids[first] = merged
            keep = np.ones(ids.size, bool)
            keep[first + 1] = False
            ids = ids[keep]
            ends = ends - np.searchsorted(first, ends)
        return split_at(ids, ends)


def pairs_of(positions: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Positions at which pairs begin when the digits of each run are paired from the left.

    Args:
        positions: Ascending positions of digits: int64, shape [digits].
        ends: End of each text; no run crosses an end: int64, shape [texts].

    Returns:
        Positions of the first digit of each pair: int64, shape [pairs].
    """
    count = positions.size
    if count < 2:
        return positions[:0]
    text_of = np.searchsorted(ends, positions, side="right")
    follows = (positions[1:] == positions[:-1] + 1) & (text_of[1:] == text_of[:-1])
    order = np.arange(count)
    start = np.maximum.accumulate(np.where(np.concatenate([[False], follows]), 0, order))
    return positions[:-1][follows & ((order - start)[:-1] % 2 == 0)]


def pair_digits(content: str, by_pattern: FastEncoder) -> DigitPairEncoder | None:
    """The encoder for a ``tokenizer.json`` with the split pattern of tokenizers trained by Halcyon; None for any
    other.
    """
    document = json.loads(content)
    parts = (document.get("pre_tokenizer") or {}).get("pretokenizers") or [{}]
    pattern = parts[0].get("pattern")
    model = document["model"]
    if (
        pattern != {"Regex": SPLIT_PATTERN}
        or model.get("type") != "BPE"
        or document.get("normalizer")
        or model.get("ignore_merges")
    ):
        return None
    vocabulary: dict[str, int] = model["vocab"]
    if not all(str(digit) in vocabulary for digit in range(10)):
        return None
    parts[0]["pattern"] = {"Regex": _DIGIT_BY_DIGIT}
    added = [token["id"] for token in document.get("added_tokens") or []]
    digit_of = np.full(max([*vocabulary.values(), *added]) + 1, -1, np.int8)
    digit_of[[vocabulary[str(digit)] for digit in range(10)]] = range(10)
    merged = np.full((10, 10), -1, np.int32)
    for merge in model["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge  # files before tokenizers 0.20 write "a b"
        if left in _DIGITS and right in _DIGITS:
            merged[int(left), int(right)] = vocabulary[left + right]
    return DigitPairEncoder(fastokens.Tokenizer.from_json_str(json.dumps(document)), by_pattern, digit_of, merged)


_DIGITS = frozenset("0123456789")


def has_other_numbers(text: str) -> bool:
    """Whether a text has numbers beyond ASCII, or characters that are not in Python's Unicode tables (they may be
    numbers).
    """
    if text.isascii():
        return False
    found = _suspects().search(text)
    # An expression with all ranges beyond the basic plane would test hundreds of ranges for each character.
    return found is not None and (
        found.group() <= "\uffff" or any(_is_doubtful(character) for character in set(text) if character > "~")
    )


@cache
def _suspects() -> re.Pattern[str]:
    """Matches the doubtful characters of the basic plane, and any character beyond it."""
    basic = "".join(character for character in map(chr, range(0x80, 0x10000)) if _is_doubtful(character))
    return re.compile(f"[{basic}\U00010000-\U0010ffff]")


def _is_doubtful(character: str) -> bool:
    return unicodedata.category(character) in ("Nd", "Nl", "No", "Cn")
