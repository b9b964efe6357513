"""Exact shares: how many sequences of each source are in a block, and before it, for any block at once.

A source with the share ``w`` should have ``B w`` of a block's ``B`` sequences, which is no whole number. What is wanted is: in every block
each source has that number rounded up or down, the counts of a block sum to ``B``, and the roundings cancel, so that the counts of all
blocks so far stay at ``k B w``, give or take about one sequence. To round block by block and carry what is owed does that, but to know
block ``k`` one has to go through all before it.

So the blocks are the leaves of a binary tree instead. The root, 2**44 blocks, shares its sequences by largest remainders. A node gives
each of its two halves half of each source's count; an odd one cannot be halved, and of those that are odd (always an even number of
sources) one half of the sources gets its extra sequence in the left half, the other half in the right. Left goes to whom the
count so far owes most. Rounding down (or up) halves again and again is rounding down (up) once, so leaves have the floor or the ceiling. A
block is found by one walk down the tree; blocks near the run's start share the long way down its left edge, which is walked once.

The debts are halves of halves of whole numbers, so floating point holds them exactly: the counts are the same on every machine.
"""

from __future__ import annotations

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
    """By how much ``before`` is more than its exact share: float64."""
    ahead_after: np.ndarray
    """The same after the node."""


class Shares:
    """Counts of sources in blocks.

    Args:
        weights: Weights of the sources, not negative, at least one above 0.
        block_sequences: Sequences of a block, B, at most 2**16.
    """

    def __init__(self, weights: Sequence[float], block_sequences: int) -> None:
        count = _largest_remainders(weights, block_sequences * MAX_BLOCKS)
        nothing = np.zeros(len(weights))
        self._left_edge = [_Node(np.zeros_like(count), count, nothing, nothing)]
        for _ in range(LEVELS):
            self._left_edge.insert(0, _half(self._left_edge[0], right=False))

    def __call__(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Sequences of each source before a block, and in it: int64 [sources] both.

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
    # Of the odd ones, the half that is furthest behind is rounded up on the left; equals in their order.
    behind_first = np.argsort(np.where(odd, middle, np.inf), kind="stable")
    up = np.zeros(len(odd), bool)
    up[behind_first[: int(odd.sum()) // 2]] = True
    left = (node.inside >> 1) + up
    middle += np.where(odd, np.where(up, 0.5, -0.5), 0.0)
    if right:
        return _Node(node.before + left, node.inside - left, middle, node.ahead_after)
    return _Node(node.before, left, node.ahead, middle)


def _largest_remainders(weights: Sequence[float], total: int) -> np.ndarray:
    """``total`` in whole parts proportional to weights, in exact arithmetic: int64 [sources]."""
    exact = [Fraction(weight) for weight in weights]
    whole = sum(exact)
    quotas = [weight * total / whole for weight in exact]
    parts = [quota.numerator // quota.denominator for quota in quotas]
    owed = sorted(range(len(parts)), key=lambda source: parts[source] - quotas[source])
    for source in owed[: total - sum(parts)]:
        parts[source] += 1
    return np.array(parts, np.int64)
