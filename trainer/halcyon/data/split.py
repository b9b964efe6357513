"""Which sequences of a source are held out: chosen evenly, before any shuffle, so no sequence is ever on both sides.

Of the first ``n`` sequences ``floor((n a + p) / b)`` are held out, ``a / b`` being the share and ``p`` the phase: a straight line drawn in
whole steps (Bresenham's), so they lie as evenly as whole numbers allow. Both directions have a closed form, so the choice costs no memory,
and it depends on neither seed nor epoch: runs with different seeds are judged on the same text. Products of two sequence numbers leave 64
bits, so they are divided digit by digit.

Two lines are in use. Where all sequences are known, ``h`` of ``n`` are held out, exactly. Where more may come while a run trains, the line
is the share that the document asks for, and what is held out of the first sequences stays so whatever comes after them.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

MAX_SEQUENCES = 2**48
"""Sequences of a source at most."""

_DIGIT_BITS = 14
"""A remainder below 2**48, shifted by one digit, plus a digit times a number below 2**48, stays below 2**63."""
_DIGITS = range(3, -1, -1)
_MAX_DENOMINATOR = 10**9


@dataclass(frozen=True)
class Line:
    """``numerator`` of every ``denominator`` numbers are chosen: 0, 1, 2, ... of them, evenly, and the same for any total."""

    numerator: int
    denominator: int
    phase: int = 0
    """Below the denominator: how far the first choice is on its way at number 0."""

    def count(self, total: int) -> int:
        """How many of the first ``total`` numbers are chosen."""
        return (total * self.numerator + self.phase) // self.denominator

    def chosen(self, ranks: np.ndarray) -> np.ndarray:
        """The numbers at ranks among the chosen: int64, same shape."""
        quotients, rests = _divided_product(ranks, self.denominator, self.numerator)
        return quotients + (rests + (self.denominator - self.phase - 1)) // self.numerator

    def left(self, ranks: np.ndarray) -> np.ndarray:
        """The numbers at ranks among those not chosen: int64, same shape."""
        rest = self.denominator - self.numerator
        quotients, rests = _divided_product(ranks, self.numerator, rest)
        return ranks + quotients + (rests + self.phase) // rest

    def is_chosen(self, numbers: np.ndarray) -> np.ndarray:
        """Whether numbers are chosen: bool, same shape."""
        _, rests = _divided_product(numbers, self.numerator, self.denominator)
        return (rests + self.phase) % self.denominator + self.numerator >= self.denominator


@dataclass(frozen=True)
class Split:
    """``total`` sequences, ``held_out`` of them for validation."""

    total: int
    held_out: int
    line: Line | None = None
    """Which ones; its count of ``total`` is ``held_out``. Default: the line that chooses exactly this share."""

    def __post_init__(self) -> None:
        if not 0 <= self.held_out <= self.total <= MAX_SEQUENCES:
            raise ValueError(f"cannot hold out {self.held_out} of {self.total} sequences; at most {MAX_SEQUENCES} sequences are possible")

    @property
    def training(self) -> int:
        """Number of training sequences."""
        return self.total - self.held_out

    @property
    def share(self) -> Fraction:
        """The share that is held out."""
        return Fraction(self._line.numerator, self._line.denominator)

    @property
    def _line(self) -> Line:
        return self.line or Line(self.held_out, max(1, self.total))

    def training_sequences(self, ranks: np.ndarray) -> np.ndarray:
        """The sequences at ranks, 0 to ``training - 1``, among the training sequences: int64, same shape."""
        ranks = _checked(ranks, self.training)
        return self._line.left(ranks) if ranks.size else ranks

    def validation_sequences(self, ranks: np.ndarray) -> np.ndarray:
        """The sequences at ranks, 0 to ``held_out - 1``, among those held out: int64, same shape."""
        ranks = _checked(ranks, self.held_out)
        return self._line.chosen(ranks) if ranks.size else ranks

    def is_held_out(self, sequences: np.ndarray) -> np.ndarray:
        """Whether sequences, 0 to ``total - 1``, are held out: bool, same shape."""
        sequences = _checked(sequences, self.total)
        return self._line.is_chosen(sequences) if sequences.size else np.zeros(sequences.shape, bool)


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


def split_stream(total: int, fraction: float) -> Split:
    """Hold out the share ``fraction`` (0 to 1) of a source of which ``total`` sequences are known: the same ones of them if there are more.

    The first sequence is trained on and the second one held out, where the share is neither 0 nor 1.
    """
    # As it is written, not as it is stored: 0.01 is one of a hundred.
    share = Fraction(repr(float(fraction))).limit_denominator(_MAX_DENOMINATOR)
    if fraction > 0:
        share = max(share, Fraction(1, _MAX_DENOMINATOR))
    if fraction < 1:
        share = min(share, 1 - Fraction(1, _MAX_DENOMINATOR))
    numerator, denominator = share.as_integer_ratio()
    line = Line(numerator, denominator, max(0, denominator - 2 * numerator) if numerator else 0)
    return Split(total, line.count(total), line)


def spread(ranks: np.ndarray, *, chosen: int, total: int) -> np.ndarray:
    """The sequences at ranks, 0 to ``chosen - 1``, among ``chosen`` that lie evenly over ``total``: int64, same shape.

    For a rehearsal, which uses a part of a source.
    """
    return _checked(ranks, total) if chosen == total else Split(total, chosen).validation_sequences(ranks)


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
