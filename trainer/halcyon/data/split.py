"""Which sequences of a source are held out: chosen evenly, before any shuffle, so no sequence is ever on both sides.

Sequence ``w`` of ``n`` is held out when ``floor(w h / n)`` grows at ``w``, which picks exactly ``h`` of them, as evenly as whole numbers
allow (Bresenham's line). Both directions have a closed form, so the choice costs no memory, and it depends on neither seed nor epoch: runs
with different seeds are judged on the same text. Products of two sequence numbers leave 64 bits, so they are divided digit by digit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MAX_SEQUENCES = 2**48
"""Sequences of a source at most."""

_DIGIT_BITS = 14
"""A remainder below 2**48, shifted by one digit, plus a digit times a number below 2**48, stays below 2**63."""
_DIGITS = range(3, -1, -1)


@dataclass(frozen=True)
class Split:
    """``total`` sequences, ``held_out`` of them for validation."""

    total: int
    held_out: int

    def __post_init__(self) -> None:
        if not 0 <= self.held_out <= self.total <= MAX_SEQUENCES:
            raise ValueError(f"cannot hold out {self.held_out} of {self.total} sequences; at most {MAX_SEQUENCES} sequences are possible")

    @property
    def training(self) -> int:
        """Number of training sequences."""
        return self.total - self.held_out

    def training_sequences(self, ranks: np.ndarray) -> np.ndarray:
        """The sequences at ranks, 0 to ``training - 1``, among the training sequences: int64, same shape."""
        ranks = _checked(ranks, self.training)
        return ranks + (_divided_product(ranks, self.held_out, self.training)[0] if ranks.size else 0)

    def validation_sequences(self, ranks: np.ndarray) -> np.ndarray:
        """The sequences at ranks, 0 to ``held_out - 1``, among those held out: int64, same shape."""
        ranks = _checked(ranks, self.held_out)
        if not ranks.size:
            return ranks
        quotients, rests = _divided_product(ranks + 1, self.total, self.held_out)
        return quotients - (rests == 0)

    def is_held_out(self, sequences: np.ndarray) -> np.ndarray:
        """Whether sequences, 0 to ``total - 1``, are held out: bool, same shape."""
        sequences = _checked(sequences, self.total)
        if not sequences.size:
            return np.zeros(sequences.shape, bool)
        before, _ = _divided_product(sequences, self.held_out, self.total)
        after, _ = _divided_product(sequences + 1, self.held_out, self.total)
        return after > before


def split_sequences(total: int, fraction: float) -> Split:
    """Hold out the share ``fraction`` (0 to 1) of ``total`` sequences.

    At least one is held out where a share is asked for and two exist, and one stays for training unless the share is 1.
    """
    if fraction >= 1:
        return Split(total, total)
    held_out = round(total * fraction)
    if fraction > 0 and total >= 2:
        held_out = max(1, held_out)
    return Split(total, min(held_out, max(0, total - 1)))


def spread(ranks: np.ndarray, *, chosen: int, total: int) -> np.ndarray:
    """The sequences at ranks, 0 to ``chosen - 1``, among ``chosen`` that lie evenly over ``total``: int64, same shape.

    For a rehearsal, which uses a part of a source.
    """
    return Split(total, chosen).validation_sequences(ranks)


def _checked(numbers: np.ndarray, size: int) -> np.ndarray:
    numbers = np.asarray(numbers, np.int64)
    if numbers.size and (numbers.min() < 0 or numbers.max() >= size):
        raise IndexError(f"a rank is outside [0, {size})")
    return numbers


def _divided_product(numbers: np.ndarray, factor: int, divisor: int) -> tuple[np.ndarray, np.ndarray]:
    """``divmod(numbers * factor, divisor)``, exact for everything up to 2**48."""
    whole, factor = divmod(factor, divisor)
    if int(numbers.max()) * factor < 2**63:
        quotients, rests = np.divmod(numbers * factor, divisor)
    else:
        quotients, rests = np.zeros_like(numbers), np.zeros_like(numbers)
        for digit in _DIGITS:  # long division in base 2**14
            rests <<= _DIGIT_BITS
            rests += ((numbers >> (_DIGIT_BITS * digit)) & ((1 << _DIGIT_BITS) - 1)) * factor
            step, rests = np.divmod(rests, divisor)
            quotients = (quotients << _DIGIT_BITS) + step
    return quotients + numbers * whole, rests
