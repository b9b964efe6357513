"""Exact shares: the number of sequences of each source in a block and before it, for any block without its
predecessors.

A source with the share ``w`` should have ``B w`` of a block's ``B`` sequences, which is usually not a whole number.
Three properties are required. In every block each source has that number rounded up or down. The counts of a block sum
to ``B``. The roundings cancel, so that the counts of the first ``k`` blocks stay within about one sequence of ``k B
w``. Rounding block by block and carrying the error has these properties, but then block ``k`` needs all blocks before
it.

So the blocks are the leaves of a binary tree. The root has 2**44 blocks and divides its sequences by largest
remainders. A node divides each source's count into two halves. An odd count leaves one extra sequence; the number of
sources with an odd count is always even, so half of these sources get the extra sequence in the left child and half in
the right child. The sources that are furthest behind their exact share get it in the left child. Repeated rounding down
(or up) of halves equals rounding down (or up) once, so each leaf has the floor or the ceiling. One walk down the tree
finds a block. Blocks near the run's start share the left edge of the tree, which is computed once.

The rounding errors are whole numbers divided by powers of two, so floating point holds them exactly: the counts are the
same on every machine.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

LEVELS = 44
MAX_BLOCKS = 2**LEVELS


class _Node(NamedTuple):
    """A node of the tree: arrays [sources]."""

    before: np.ndarray
    """Sequences of each source before the node: int64."""
    inside: np.ndarray
    """Sequences of each source in the node: int64."""
    ahead: np.ndarray
    """``before`` minus its exact share: float64."""
    ahead_after: np.ndarray
    """The same at the end of the node: float64."""


class Shares:
    """Counts of each source in blocks.

    Args:
        weights: Weights of the sources: none negative, at least one above 0.
        block_sequences: Sequences of a block, B, at most 2**16.
    """

    def __init__(self, weights: Sequence[float], block_sequences: int) -> None:
        count = _largest_remainders(weights, block_sequences * MAX_BLOCKS)
        nothing = np.zeros(len(weights))
        self._left_edge = [_Node(np.zeros_like(count), count, nothing, nothing)]
        for _ in range(LEVELS):
            self._left_edge.insert(0, _half(self._left_edge[0], right=False))

    def __call__(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Sequences of each source before a block and in it; both int64 [sources].

        Raises:
            IndexError: The block is outside ``[0, 2**44)``.
        """
        if not 0 <= block < MAX_BLOCKS:
            raise IndexError(f"block {block} is outside [0, {MAX_BLOCKS})")
        level = block.bit_length()
        node = self._left_edge[level]
        while level:
            level -= 1
            node = _half(node, right=bool(block >> level & 1))
        return node.before, node.inside


def _half(node: _Node, *, right: bool) -> _Node:
    """The left or the right half of a node."""
    odd = (node.inside & 1).astype(bool)
    middle = (node.ahead + node.ahead_after) / 2
    # Of the sources with odd counts, the half furthest behind is rounded up on the left; ties keep the order of the
    # sources.
    behind_first = np.argsort(np.where(odd, middle, np.inf), kind="stable")
    up = np.zeros(len(odd), bool)
    up[behind_first[: int(odd.sum()) // 2]] = True
    left = (node.inside >> 1) + up
    middle += np.where(odd, np.where(up, 0.5, -0.5), 0.0)
    if right:
        return _Node(node.before + left, node.inside - left, middle, node.ahead_after)
    return _Node(node.before, left, node.ahead, middle)


def _largest_remainders(weights: Sequence[float], total: int) -> np.ndarray:
    """``total`` divided into whole parts proportional to weights, by largest remainders in exact arithmetic: int64
    [sources].
    """
    exact = [Fraction(weight) for weight in weights]
    whole = sum(exact)
    quotas = [weight * total / whole for weight in exact]
    parts = [quota.numerator // quota.denominator for quota in quotas]
    owed = sorted(range(len(parts)), key=lambda source: parts[source] - quotas[source])
    for source in owed[: total - sum(parts)]:
        parts[source] += 1
    return np.array(parts, np.int64)
