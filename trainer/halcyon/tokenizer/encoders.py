"""Chooses between a fast encoder and a slow reference encoder, so that ids are always those of the reference.

``tokenizers`` defines the meaning of a ``tokenizer.json``. It is the reference, and encodes 3 to 4 MB/s per core.
``fastokens`` reads the same file, has hand-written scanners for the usual split patterns (PCRE2 runs others) and caches
parts: 50 to 300 MB/s. It is used if it accepts the file and gives the ids of the reference on every text of the probe.
Otherwise the reference encodes, and a warning is logged.

The pattern of tokenizers trained by Halcyon (``\\p{N}{1,2}``) is not a usual one, and would run five times slower. But
it differs from Qwen 2's pattern (``\\p{N}``), which is known, only in that it groups digits in pairs. BPE turns two
digits into one token if that merge exists, else into two tokens. So `DigitPairEncoder` encodes texts digit by digit,
and then pairs the digits of each run from the left, which gives the same ids. Two kinds of text go through PCRE2: texts
with numbers of other scripts, whose digits have several bytes, and texts with characters that are newer than Python's
Unicode tables, because they may be numbers.
"""

import json
import logging
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import fastokens
import numpy as np
import tokenizers

from halcyon.tokenizer.bpe import SPLIT_PATTERN
from halcyon.tokenizer.cut import PieceEncoder
from halcyon.tokenizer.probe import probe_texts

log = logging.getLogger(__name__)

_DIGIT_BY_DIGIT = SPLIT_PATTERN.replace(r"\p{N}{1,2}", r"\p{N}")
_DIGITS = frozenset("0123456789")


@dataclass(frozen=True)
class ReferenceEncoder:
    """Encodes with ``tokenizers``."""

    tokenizer: tokenizers.Tokenizer

    def __call__(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of each text, int32, without special tokens."""
        encodings = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in encodings]


@dataclass(frozen=True)
class FastEncoder:
    """Encodes with ``fastokens``, which uses all cores (one core with ``FASTOKENS_BPE_THREADS=1``) and releases the
    GIL.
    """

    tokenizer: fastokens.Tokenizer

    def __call__(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of each text, int32, without special tokens."""
        if not texts:
            return []
        ids, ends = encode_flat(self.tokenizer, texts)
        return np.split(ids, ends[:-1])


def encode_flat(tokenizer: fastokens.Tokenizer, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Ids of all texts in one read-only array, int32, shape [tokens], and the end of each text in it, int64, shape
    [texts].
    """
    ids, offsets = tokenizer.encode_batch_flat(list(texts), split_special_tokens=True)
    return np.frombuffer(ids, np.int32), np.frombuffer(offsets, np.int64)[1:]


def choose_encoder(
    makers: Iterable[Callable[[], PieceEncoder | None]],
    reference: PieceEncoder,
    special: Iterable[str],
    what: str,
    library: str,
) -> PieceEncoder:
    """The first fast encoder that agrees with the reference on the probe, else the reference.

    Args:
        makers: Make fast encoders; may raise the errors of the library. None: there is no such encoder for this file.
        reference: The encoder whose ids are correct by definition.
        special: Spellings of the special tokens.
        what: The tokenizer's file, for the log.
        library: The library of the reference, for the log.
    """
    texts, reason = probe_texts(special), "its ids differ from the reference's"
    for make in makers:
        try:
            fast = make()
            if fast is not None and all(
                np.array_equal(*ids) for ids in zip(fast(texts), reference(texts), strict=True)
            ):
                return fast
        except (ValueError, RuntimeError) as error:  # such as a pattern that needs too many steps
            reason = str(error).split("\n", 1)[0]
    log.warning("fastokens cannot encode with %s (%s): using %s, which is slower", what, reason, library)
    return reference


@dataclass(frozen=True)
class DigitPairEncoder:
    """Encodes digit by digit with ``fastokens``, then pairs the digits."""

    by_digit: fastokens.Tokenizer
    """The tokenizer with the pattern that splits every digit."""
    by_pattern: PieceEncoder
    """Encodes with the original pattern."""
    digit_of: np.ndarray
    """Digit of each id, -1 for ids that are not a digit: int8, shape [vocabulary]."""
    merged: np.ndarray
    """Id of each pair of digits, -1 if there is no such token: int32, shape [10, 10]."""

    def __call__(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of each text, int32, without special tokens."""
        odd = [index for index, text in enumerate(texts) if has_other_numbers(text)]
        others = set(odd)
        by_pattern = iter(self.by_pattern([texts[index] for index in odd]))
        paired = iter(self._pair([text for index, text in enumerate(texts) if index not in others]))
        return [next(by_pattern if index in others else paired) for index in range(len(texts))]

    def _pair(self, texts: Sequence[str]) -> list[np.ndarray]:
        if not texts:
            return []
        ids, ends = encode_flat(self.by_digit, texts)
        digits = np.take(self.digit_of, ids)
        first = pairs_of(np.flatnonzero(digits >= 0), ends)
        merged = self.merged[digits[first], digits[first + 1]]
        first, merged = first[merged >= 0], merged[merged >= 0]
        if first.size:
            ids = ids.copy()
            ids[first] = merged
            keep = np.ones(ids.size, bool)
            keep[first + 1] = False
            ids = ids[keep]
            ends = ends - np.searchsorted(first, ends)
        return np.split(ids, ends[:-1])


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


def has_other_numbers(text: str) -> bool:
    """Whether a text has numbers beyond ASCII, or characters that are not in Python's Unicode tables (they may be
    numbers).
    """
    if text.isascii():
        return False
    suspect = _suspects().search(text)
    # An expression with all ranges beyond the basic plane would test hundreds of ranges for each character.
    return suspect is not None and (
        suspect.group() <= "\uffff" or any(_is_doubtful(character) for character in set(text) if character > "~")
    )


@cache
def _suspects() -> re.Pattern[str]:
    """Matches the doubtful characters of the basic plane, and any character beyond it."""
    basic = "".join(character for character in map(chr, range(0x80, 0x10000)) if _is_doubtful(character))
    return re.compile(f"[{basic}\U00010000-\U0010ffff]")


def _is_doubtful(character: str) -> bool:
    return unicodedata.category(character) in ("Nd", "Nl", "No", "Cn")
