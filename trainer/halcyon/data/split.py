"""Chooses the held-out sequences of a source: evenly spaced, before any shuffle, so no sequence is in both sets.

Of the first ``n`` sequences ``floor((n a + p) / b)`` are held out, where ``a / b`` is the share and ``p`` the phase.
This is Bresenham's line in whole steps, so the held-out sequences are as evenly spaced as whole numbers allow. The maps
from number to rank and back have closed forms, so the choice needs no memory. It does not depend on seed or epoch: runs
with different seeds are evaluated on the same text. The product of two sequence numbers can exceed 64 bits, so it is
divided digit by digit.

Two lines are used. If all sequences are known, exactly ``h`` of ``n`` are held out. If the source may grow while a run
trains, the line is the share in the document, so later sequences do not change which of the first sequences are held
out.
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from halcyon.data.order.permutation import checked_places

MAX_SEQUENCES = 2**48
"""A source has at most this number of sequences."""

_DIGIT_BITS = 14
"""A remainder below 2**48, shifted by one digit, plus a digit times a number below 2**48, stays below 2**63."""
_DIGITS = range(3, -1, -1)
_MAX_DENOMINATOR = 10**9


@dataclass(frozen=True)
class EvenChoice:
    """Of the numbers 0, 1, 2, ...

    chooses ``numerator`` in every ``denominator``, evenly spaced. The choice does not depend on a total.
    """

    numerator: int
    denominator: int
    phase: int = 0
    """``p`` of the formula, 0 to ``denominator - 1``: a larger phase moves the first chosen number nearer to 0."""

    def count(self, total: int) -> int:
        """Number of chosen numbers among the first ``total``."""
        return (total * self.numerator + self.phase) // self.denominator

    def chosen(self, ranks: np.ndarray) -> np.ndarray:
        """The numbers at ranks among the chosen numbers: int64, same shape."""
        quotients, rests = _divided_product(ranks, self.denominator, self.numerator)
        return quotients + (rests + (self.denominator - self.phase - 1)) // self.numerator

    def not_chosen(self, ranks: np.ndarray) -> np.ndarray:
        """The numbers at ranks among the numbers that are not chosen: int64, same shape."""
        rest = self.denominator - self.numerator
        quotients, rests = _divided_product(ranks, self.numerator, rest)
        return ranks + quotients + (rests + self.phase) // rest


@dataclass(frozen=True)
class Split:
    """``total`` sequences, ``validation`` of them for validation."""

    total: int
    validation: int
    line: EvenChoice | None = None
    """The line that chooses the held-out sequences; its count of ``total`` is ``validation``.

    Default: the share ``validation / total``.
    """

    def __post_init__(self) -> None:
        if not 0 <= self.validation <= self.total <= MAX_SEQUENCES:
            raise ValueError(
                f"cannot hold out {self.validation} of {self.total} sequences; at most {MAX_SEQUENCES} sequences are "
                "possible"
            )

    @property
    def training(self) -> int:
        """Number of training sequences."""
        return self.total - self.validation

    @property
    def share(self) -> Fraction:
        """The share that is held out."""
        return Fraction(self._line.numerator, self._line.denominator)

    @property
    def _line(self) -> EvenChoice:
        return self.line or EvenChoice(self.validation, max(1, self.total))

    def training_sequences(self, ranks: np.ndarray) -> np.ndarray:
        """The sequences at ranks, 0 to ``training - 1``, among the training sequences: int64, same shape."""
        ranks = checked_places(ranks, self.training)
        return self._line.not_chosen(ranks) if ranks.size else ranks

    def validation_sequences(self, ranks: np.ndarray) -> np.ndarray:
        """The sequences at ranks, 0 to ``validation - 1``, among the held-out sequences: int64, same shape."""
        ranks = checked_places(ranks, self.validation)
        return self._line.chosen(ranks) if ranks.size else ranks


def split_sequences(total: int, fraction: float) -> Split:
    """Hold out the share ``fraction`` (0 to 1) of ``total`` sequences.

    At least one is held out if the share is above 0 and there are two or more. At least one stays for training unless
    the share is 1.
    """
    if fraction >= 1:
        return Split(total, total)
    validation = round(total * fraction)
    if fraction > 0 and total >= 2:
        validation = max(1, validation)
    return Split(total, min(validation, max(0, total - 1)))


def split_stream(total: int, fraction: float) -> Split:
    """Hold out the share ``fraction`` (0 to 1) of a source with ``total`` sequences so far. More sequences do not
    change this choice.

    If the share is neither 0 nor 1, the first sequence is for training and the second is held out.
    """
    # The decimal number as written, not its binary value: 0.01 is exactly 1/100.
    share = Fraction(repr(float(fraction))).limit_denominator(_MAX_DENOMINATOR)
    if fraction > 0:
        share = max(share, Fraction(1, _MAX_DENOMINATOR))
    if fraction < 1:
        share = min(share, 1 - Fraction(1, _MAX_DENOMINATOR))
    numerator, denominator = share.as_integer_ratio()
    line = EvenChoice(numerator, denominator, max(0, denominator - 2 * numerator) if numerator else 0)
    return Split(total, line.count(total), line)


def spread(ranks: np.ndarray, *, chosen: int, total: int) -> np.ndarray:
    """The sequences at ranks, 0 to ``chosen - 1``, among ``chosen`` sequences evenly spaced over ``total``: int64, same
    shape.

    Used for a rehearsal (`simulateTokens`), which takes a part of a source.
    """
    return checked_places(ranks, total) if chosen == total else Split(total, chosen).validation_sequences(ranks)


def _divided_product(numbers: np.ndarray, factor: int, divisor: int) -> tuple[np.ndarray, np.ndarray]:
    """``divmod(numbers * factor, divisor)``, exact for arguments up to 2**48."""
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
