"""A keyed permutation of ``[0, n)`` that needs no memory: index in, element out, and back.

An alternating Feistel network shuffles the smallest power of two that holds ``n``, at least 64: the bits of a number are two halves, and
each round adds (exclusive or) to one half a keyed hash of the other, which can be undone whatever the hash is. A result outside ``[0, n)``
is put through again until it falls inside (cycle walking; from 33 on the power of two is under 2 n, so twice on average at most), which
leaves a permutation of ``[0, n)``. The hash is two multiplications with a fold between them, so that the bits it is cut from depend on
every bit of the input and of the round key. The round keys are SHAKE-256 of the key, so neighbouring seeds and epochs have nothing in
common.

Sources: Luby and Rackoff, "How to construct pseudorandom permutations" (1988); Black and Rogaway, "Ciphers with arbitrary finite domains"
(2002), for cycle walking; the multipliers are those of SplitMix64, Steele, Lea and Flood (2014).
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np

ROUNDS = 8
"""Four make a strong pseudorandom permutation of a large domain; twice as many leave a margin."""
MIN_BITS = 6
"""With halves of fewer than three bits not all permutations would be equally likely."""
MAX_SIZE = 2**62

_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_FOLD = np.uint64(32)
_CHUNK = 16384
"""Numbers that go through all rounds together: the four arrays that a round works on stay in a core's second-level cache."""
_WALKED_TOGETHER = 2**17
"""Numbers that go through again together: enough that the last, short passes cost little, few enough to stay in the cache."""


class Cipher(NamedTuple):
    """What decides a network. Scalars and [8] for one permutation; with one more axis, [n], for numbers of different ones."""

    low_bits: np.ndarray | np.uint64
    """Bits of the lower half."""
    low_mask: np.ndarray | np.uint64
    low_cut: np.ndarray | np.uint64
    """Where a digest is cut for the lower half."""
    high_cut: np.ndarray | np.uint64
    round_keys: np.ndarray
    """uint64 [8]."""


class Permutation:
    """A permutation of ``[0, size)``, drawn by ``key``.

    Args:
        size: Number of elements, 1 to 2**62.
        key: Any bytes. Equal keys give equal permutations, on every machine and in every version.
    """

    def __init__(self, size: int, key: bytes) -> None:
        if not 1 <= size <= MAX_SIZE:
            raise ValueError(f"a permutation has 1 to 2**62 elements, not {size}")
        self.size = size
        bits = max(MIN_BITS, (size - 1).bit_length())
        self.is_walked = size > 1 << MIN_BITS
        """Whether numbers go through the network one by one; smaller sets are permuted as a whole."""
        self.cipher = Cipher(
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
        """The indices at which ``elements`` are: int64, same shape.

        Raises:
            IndexError: An element is outside ``[0, size)``.
        """
        return self._walk(elements, range(ROUNDS - 1, -1, -1))

    def _walk(self, numbers: np.ndarray | int, rounds: range) -> np.ndarray:
        numbers = np.asarray(numbers, np.int64)
        if numbers.size and (numbers.min() < 0 or numbers.max() >= self.size):
            raise IndexError(f"an index is outside [0, {self.size})")
        if not self.is_walked:
            return self._small(rounds)[numbers]
        walked = numbers.astype(np.uint64, order="C").reshape(-1)  # a copy
        size = np.uint64(self.size)
        for first in range(0, walked.size, _WALKED_TOGETHER):
            part = walked[first : first + _WALKED_TOGETHER]
            pass_through(part, self.cipher, rounds)
            outside = np.flatnonzero(part >= size)
            again = part[outside]
            while again.size:
                pass_through(again, self.cipher, rounds)
                part[outside] = again  # those still outside are written over by their next pass
                still = np.flatnonzero(again >= size)
                outside, again = outside[still], again[still]
        return walked.view(np.int64).reshape(numbers.shape)

    def _small(self, rounds: range) -> np.ndarray:
        """All elements of a set so small that most passes would fall outside it: int64 [size]."""
        passed = np.arange(1 << MIN_BITS, dtype=np.uint64)
        pass_through(passed, self.cipher, rounds)
        following = passed.tolist()
        elements: list[int] = []
        for element in following[: self.size]:
            inside = element
            while inside >= self.size:
                inside = following[inside]
            elements.append(inside)
        return np.array(elements, np.int64)


def pass_through(numbers: np.ndarray, cipher: Cipher, rounds: range) -> None:
    """One pass of all rounds, in place.

    Args:
        numbers: uint64 [n].
        cipher: Of one permutation; or of a permutation for each number, which should be few enough to stay in the cache.
        rounds: All rounds forwards, or backwards for the inverse.
    """
    chunk = _CHUNK if cipher.round_keys.ndim == 1 else max(1, numbers.size)
    buffers = np.empty((3, min(chunk, numbers.size)), np.uint64)
    cuts = (cipher.low_cut, cipher.high_cut)
    for first in range(0, numbers.size, chunk):
        high = numbers[first : first + chunk]
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
