"""Numbers in groups of two digits, at the speed of a split pattern that the fast encoder knows.

``fastokens`` scans the usual patterns with hand-written code, and runs any other through a regular expression engine, five times slower.
The pattern of tokenizers trained here (``\\p{N}{1,2}``) is such another. But it differs from Qwen 2's (``\\p{N}``), which is known, only in
that digits go in twos; and what BPE makes of two digits is one token, if there is that merge, or two. So texts are encoded digit by digit,
and then the digits of each run are paired from the left: the same ids. Texts with numbers of other scripts, several bytes each, go through
the engine, and so do texts with characters too young for Python's tables to know whether they are numbers.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache

import fastokens
import numpy as np

from halcyon.tokenizer.bpe import SPLIT_PATTERN
from halcyon.tokenizer.encoders import FastEncoder, encode_flat
from halcyon.tokenizer.text import PieceEncoder

_DIGIT_BY_DIGIT = SPLIT_PATTERN.replace(r"\p{N}{1,2}", r"\p{N}")
_TABLES_END = 0x323B0
"""First code point after the last CJK extension: above lie unassigned planes, tags, variation selectors and private use."""


class DigitPairEncoder:
    """Encodes digit by digit with ``fastokens``, then pairs the digits."""

    name = "fastokens"

    def __init__(self, by_digit: fastokens.Tokenizer, by_pattern: PieceEncoder, digit_of: np.ndarray, merged: np.ndarray) -> None:
        """
        Args:
            by_digit: The tokenizer with the pattern that splits every digit.
            by_pattern: Encodes with the pattern as it is.
            digit_of: Value of the digit that each id stands for, -1 for other ids: int8, shape [vocabulary].
            merged: Id of each pair of digits, -1 where there is none: int32, shape [10, 10].
        """
        self._by_digit = by_digit
        self._by_pattern = by_pattern
        self._digit_of = digit_of
        self._merged = merged

    def __call__(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of each text, int32, without special tokens."""
        find = _other_numbers().search
        odd = [index for index, text in enumerate(texts) if not text.isascii() and find(text)]
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
            ids[first] = merged
            keep = np.ones(ids.size, bool)
            keep[first + 1] = False
            ids = ids[keep]
            ends = ends - np.searchsorted(first, ends)
        return np.split(ids, ends[:-1])


def pairs_of(positions: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Where the pairs begin when neighbours are paired from the left, run by run.

    Args:
        positions: Ascending positions of digits: int64, shape [digits].
        ends: Where each text ends; no run goes over an end: int64, shape [texts].

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
    """The encoder for a ``tokenizer.json`` that splits as those trained here do; None for any other, which needs none."""
    document = json.loads(content)
    parts = (document.get("pre_tokenizer") or {}).get("pretokenizers") or [{}]
    pattern = parts[0].get("pattern")
    model = document["model"]
    if pattern != {"Regex": SPLIT_PATTERN} or model.get("type") != "BPE" or document.get("normalizer") or model.get("ignore_merges"):
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


@cache
def _other_numbers() -> re.Pattern[str]:
    """Numbers beyond ASCII, and every character that this Python does not know."""
    doubtful = "".join(f"{chr(first)}-{chr(last)}" for first, last in _ranges())
    return re.compile(f"[{doubtful}{chr(_TABLES_END)}-\U0010ffff]")


def _ranges() -> Iterator[tuple[int, int]]:
    """Runs of code points beyond ASCII whose category is a number or unassigned."""
    start: int | None = None
    for code in range(0x80, _TABLES_END + 1):
        doubtful = code < _TABLES_END and unicodedata.category(chr(code)) in ("Nd", "Nl", "No", "Cn")
        if doubtful and start is None:
            start = code
        elif not doubtful and start is not None:
            yield start, code - 1
            start = None
