"""A keyed permutation of ``[0, n)`` that needs no memory: it computes the element of an index, and the index of an
element.

An alternating Feistel network permutes the smallest power of two that is at least ``n``, and at least 64. The bits of a
number are two halves. Each round adds (exclusive or) a keyed hash of one half to the other half, which is invertible
with any hash. A result outside ``[0, n)`` passes through the network again until it is inside (cycle walking; for ``n``
of 33 or more the power of two is below 2 n, so a number needs at most two passes on average). The result is a
permutation of ``[0, n)``. The hash is two multiplications with a fold between them, so the bits taken from it depend on
every bit of the input and of the round key. The round keys are SHAKE-256 of the key, so neighbouring seeds and epochs
have unrelated permutations.

Sources: Luby and Rackoff, "How to construct pseudorandom permutations" (1988); Black and Rogaway, "Ciphers with
arbitrary finite domains" (2002), for cycle walking; the multipliers are those of SplitMix64, Steele, Lea and Flood
(2014).
"""

import hashlib
from typing import NamedTuple

import numpy as np

ROUNDS = 8
"""Four rounds make a strong pseudorandom permutation of a large domain; eight leave a margin."""
MIN_BITS = 6
"""Halves of fewer than three bits would not make all permutations equally likely."""
MAX_SIZE = 2**62

_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_FOLD = np.uint64(32)
_CHUNK = 16384
"""Numbers that pass through all rounds together: the four arrays of a round fit in a core's second-level cache."""
_WALKED_TOGETHER = 2**17
"""Numbers whose cycle walking is done together: enough that the last, short passes cost little, few enough to stay in
the cache.
"""


def checked_places(places: np.ndarray | int, size: int) -> np.ndarray:
    """Places as int64.

    Raises:
        IndexError: A place is outside ``[0, size)``.
    """
    places = np.asarray(places, np.int64)
    if places.size and (places.min() < 0 or places.max() >= size):
        raise IndexError(f"a place is outside [0, {size})")
    return places


def checked_positions(positions: np.ndarray) -> np.ndarray:
    """Positions of an endless run as int64.

    Raises:
        IndexError: A position is below 0.
    """
    positions = np.asarray(positions, np.int64)
    if positions.size and positions.min() < 0:
        raise IndexError("a position is below 0")
    return positions


class _Cipher(NamedTuple):
    """Parameters of a network."""

    low_bits: np.uint64
    """Bits of the lower half."""
    low_mask: np.uint64
    low_cut: np.uint64
    """Right shift of a digest for the lower half."""
    high_cut: np.uint64
    """Right shift of a digest for the higher half."""
    round_keys: np.ndarray
    """uint64 [8]."""


class Permutation:
    """A permutation of ``[0, size)``, determined by ``key``.

    Args:
        size: Number of elements, 1 to 2**62.
        key: Any bytes. Equal keys give equal permutations, on every machine and in every version.
    """

    def __init__(self, size: int, key: bytes) -> None:
        if not 1 <= size <= MAX_SIZE:
            raise ValueError(f"a permutation has 1 to 2**62 elements, not {size}")
        self.size = size
        bits = max(MIN_BITS, (size - 1).bit_length())
        self._is_walked = size > 1 << MIN_BITS
        """Whether each number passes through the network; a smaller set is permuted as a whole."""
        self._cipher = _Cipher(
            low_bits=np.uint64(bits // 2),
            low_mask=np.uint64((1 << (bits // 2)) - 1),
            low_cut=np.uint64(64 - bits // 2),
            high_cut=np.uint64(64 - (bits - bits // 2)),
            round_keys=np.frombuffer(hashlib.shake_256(key).digest(8 * ROUNDS), "<u8").astype(np.uint64),
        )

    def __call__(self, indices: np.ndarray | int) -> np.ndarray:
        """The elements at ``indices``: int64, same shape.

        Raises:
            IndexError: An index is outside ``[0, size)``.
        """
        return self._walk(indices, range(ROUNDS))

    def inverse(self, elements: np.ndarray | int) -> np.ndarray:
        """The indices of ``elements``: int64, same shape.

        Raises:
            IndexError: An element is outside ``[0, size)``.
        """
        return self._walk(elements, range(ROUNDS - 1, -1, -1))

    def _walk(self, numbers: np.ndarray | int, rounds: range) -> np.ndarray:
        numbers = checked_places(numbers, self.size)
        if not self._is_walked:
            return self._small(rounds)[numbers]
        walked = numbers.astype(np.uint64, order="C").reshape(-1)  # a copy
        size = np.uint64(self.size)
        for first in range(0, walked.size, _WALKED_TOGETHER):
            part = walked[first : first + _WALKED_TOGETHER]
            _pass_through(part, self._cipher, rounds)
            outside = np.flatnonzero(part >= size)
            again = part[outside]
            while again.size:
                _pass_through(again, self._cipher, rounds)
                part[outside] = again  # numbers that are still outside are overwritten by their next pass
                still = np.flatnonzero(again >= size)
                outside, again = outside[still], again[still]
        return walked.view(np.int64).reshape(numbers.shape)

    def _small(self, rounds: range) -> np.ndarray:
        """All elements of a small set, for which most passes would give a number outside it: int64 [size]."""
        passed = np.arange(1 << MIN_BITS, dtype=np.uint64)
        _pass_through(passed, self._cipher, rounds)
        following = passed.tolist()
        elements: list[int] = []
        for element in following[: self.size]:
            inside = element
            while inside >= self.size:
                inside = following[inside]
            elements.append(inside)
        return np.array(elements, np.int64)


def _pass_through(numbers: np.ndarray, cipher: _Cipher, rounds: range) -> None:
    """One pass through all rounds, in place.

    Args:
        numbers: uint64 [n].
        cipher: Parameters of the permutation.
        rounds: All rounds forwards, or backwards for the inverse.
    """
    buffers = np.empty((3, min(_CHUNK, numbers.size)), np.uint64)
    cuts = (cipher.low_cut, cipher.high_cut)
    for first in range(0, numbers.size, _CHUNK):
        high = numbers[first : first + _CHUNK]
        low, digest, folded = buffers[:, : high.size]
        np.bitwise_and(high, cipher.low_mask, out=low)
        high >>= cipher.low_bits
        for turn in rounds:
            changed, other = (low, high) if turn % 2 == 0 else (high, low)
            np.add(other, cipher.round_keys[turn], out=digest)
            digest *= _MULTIPLIERS[0]
            np.right_shift(digest, _FOLD, out=folded)
            digest ^= folded
            digest *= _MULTIPLIERS[1]
            digest >>= cuts[turn % 2]
            changed ^= digest
        high <<= cipher.low_bits
        high |= low
