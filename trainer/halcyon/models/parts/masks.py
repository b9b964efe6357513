"""Attention masks: the keys that a query sees. Masks combine: ``Causal() & Window(4096) & Segments(ids)``.

A mask has three methods. `visible` returns the booleans of a block of queries and a block of keys. `key_range` bounds,
from the shapes alone, the keys that a block of queries can see, so that attention skips the other blocks;
`block_ranges` bounds them by the arrays of the mask, when the program runs. A range may be too wide, never too narrow.

Queries and keys are counted from 0 along their own axes. Queries that continue a sequence have a mask of their own
(`halcyon.models.cache.KeptPositions`).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray

from halcyon.models.axes import run


@dataclass(frozen=True)
class Block:
    """A block of consecutive queries, or keys.

    Attributes:
        axis: The axis of the block.
        first: The index of its first element in the whole axis; may be traced.
        whole: The axis of all queries, or keys.
    """

    axis: Axis
    first: jax.Array | int
    whole: Axis

    @staticmethod
    def all_of(axis: Axis) -> Block:
        """The block of all queries, or keys."""
        return Block(axis, 0, axis)

    def numbers(self) -> NamedArray:
        """The indices of its elements in the whole axis: int32 [axis]."""
        numbers = hax.arange(self.axis)
        return numbers if self.axis.size == self.whole.size else numbers + self.first

    def of(self, x: NamedArray) -> NamedArray:
        """This block's part of an array over the whole axis."""
        if self.axis.size != self.whole.size:
            return run(x, self.whole, self.axis, self.first)
        return x if self.axis.name == self.whole.name else x.rename({self.whole.name: self.axis.name})


class BlockRanges(NamedTuple):
    """For each block of queries, a range of blocks of keys, for all rows of the arrays together."""

    first: jax.Array
    """int32 [blocks of queries]."""
    end: jax.Array
    """Excluded: int32 [blocks of queries]."""


class Mask(eqx.Module):
    """The keys that a query sees. Combine masks with ``&``."""

    @abstractmethod
    def visible(self, queries: Block, keys: Block) -> NamedArray:
        """True where a query sees a key: booleans.

        Axes: those of the arrays in the mask, the queries' and the keys'.
        """

    def key_range(self, first: int, last: int, keys: int) -> tuple[int, int]:
        """The range of keys, end excluded, that the queries ``first`` to ``last``, both included, can see.

        Args:
            first: Index of the first query.
            last: Index of the last query.
            keys: Number of all keys.
        """
        del first, last
        return 0, keys

    def block_ranges(self, queries: Axis, keys: Axis, block: int) -> BlockRanges | None:
        """The ranges of blocks of keys that the arrays of the mask leave for each block of queries; None: all.

        Args:
            queries: The axis of all queries; a multiple of `block`.
            keys: The axis of all keys; a multiple of `block`.
            block: Queries, and keys, of a block.
        """
        del queries, keys, block
        return None

    def __and__(self, other: Mask) -> Mask:
        return _Both(self, other)


class Causal(Mask):
    """A query sees the keys up to and including its own position."""

    def visible(self, queries: Block, keys: Block) -> NamedArray:
        """See `Mask.visible`."""
        return queries.numbers().broadcast_axis(keys.axis) >= keys.numbers()

    def key_range(self, first: int, last: int, keys: int) -> tuple[int, int]:
        """See `Mask.key_range`."""
        return 0, min(keys, last + 1)


class Until(Mask):
    """A query sees the keys up to a position, which is not before its own.

    Attributes:
        last: That position: (..., query axis) integers.
        farthest: The greatest distance of it from the query.
    """

    last: NamedArray
    farthest: int = eqx.field(static=True)

    def visible(self, queries: Block, keys: Block) -> NamedArray:
        """See `Mask.visible`."""
        return queries.of(self.last).broadcast_axis(keys.axis) >= keys.numbers()

    def key_range(self, first: int, last: int, keys: int) -> tuple[int, int]:
        """See `Mask.key_range`."""
        return 0, min(keys, last + 1 + self.farthest)


class Window(Mask):
    """A query sees no key that is `size` or more positions before its own.

    It sees all later keys: combine it with `Causal`.
    """

    size: int = eqx.field(static=True)

    def __check_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"a window of {self.size} positions sees nothing; give at least 1")

    def visible(self, queries: Block, keys: Block) -> NamedArray:
        """See `Mask.visible`."""
        oldest = queries.numbers() + -self.size
        return oldest.broadcast_axis(keys.axis) < keys.numbers()

    def key_range(self, first: int, last: int, keys: int) -> tuple[int, int]:
        """See `Mask.key_range`."""
        return min(keys, max(0, first - self.size + 1)), keys


class Nearby(Mask):
    """A query sees the keys at most `reach` positions from its own, on both sides."""

    reach: int = eqx.field(static=True)

    def visible(self, queries: Block, keys: Block) -> NamedArray:
        """See `Mask.visible`."""
        distance: NamedArray = queries.numbers().broadcast_axis(keys.axis) - keys.numbers()
        return hax.abs(distance) <= self.reach

    def key_range(self, first: int, last: int, keys: int) -> tuple[int, int]:
        """See `Mask.key_range`."""
        return min(keys, max(0, first - self.reach)), min(keys, last + self.reach + 1)


class Prefix(Mask):
    """Every query sees the first `length` keys, and no others."""

    length: int = eqx.field(static=True)

    def visible(self, queries: Block, keys: Block) -> NamedArray:
        """See `Mask.visible`."""
        del queries
        return keys.numbers() < self.length

    def key_range(self, first: int, last: int, keys: int) -> tuple[int, int]:
        """See `Mask.key_range`."""
        del first, last
        return 0, min(keys, max(0, self.length))


class Segments(Mask):
    """A query sees the keys of its own segment. The positions of a segment are consecutive.

    Attributes:
        of_queries: (..., query axis) integers.
        of_keys: (..., key axis) integers. None: those of the queries; there must be one key for each query.
    """

    of_queries: NamedArray
    of_keys: NamedArray | None = None

    def visible(self, queries: Block, keys: Block) -> NamedArray:
        """See `Mask.visible`."""
        of_keys = self.of_queries.rename({queries.whole: keys.whole}) if self.of_keys is None else self.of_keys
        same: Any = queries.of(self.of_queries).broadcast_axis(keys.axis) == keys.of(of_keys)
        return same

    def block_ranges(self, queries: Axis, keys: Axis, block: int) -> BlockRanges | None:
        """See `Mask.block_ranges`."""
        of_keys = self.of_queries.rename({queries.name: keys.name}) if self.of_keys is None else self.of_keys
        rows = {
            axis.name: axis
            for axis in (*self.of_queries.axes, *of_keys.axes)
            if axis.name not in (queries.name, keys.name)
        }

        def flat(ids: NamedArray, axis: Axis) -> jax.Array:
            return ids.broadcast_to((*rows.values(), axis)).array.reshape(-1, axis.size)

        seen = shared_blocks(flat(self.of_queries, queries), flat(of_keys, keys), block)
        blocks = seen.shape[1]
        first = jnp.argmax(seen, 1)
        end = jnp.where(seen.any(1), blocks - jnp.argmax(seen[:, ::-1], 1), first)
        return BlockRanges(first.astype(jnp.int32), end.astype(jnp.int32))


def causal(segments: NamedArray | None = None, until: Until | None = None) -> Mask:
    """The mask of a decoder: causal, or with `until` up to its positions, and, with `segments`, within each segment."""
    first = until or Causal()
    return first if segments is None else first & Segments(segments)


def surely_sees_itself(mask: Mask | None) -> bool:
    """True: every query surely sees the key at its own position. False: not certain."""
    return all(
        part.of_keys is None if isinstance(part, Segments) else isinstance(part, Causal | Until | Window | Nearby)
        for part in conjuncts(mask)
    )


def conjuncts(mask: Mask | None) -> tuple[Mask, ...]:
    """The masks that `mask` combines: a query sees a key if it does in all of them."""
    if mask is None:
        return ()
    return (*conjuncts(mask.left), *conjuncts(mask.right)) if isinstance(mask, _Both) else (mask,)


class _Both(Mask):
    left: Mask
    right: Mask

    def visible(self, queries: Block, keys: Block) -> NamedArray:
        left, right = _alike(self.left.visible(queries, keys), self.right.visible(queries, keys))
        return left & right

    def key_range(self, first: int, last: int, keys: int) -> tuple[int, int]:
        left, right = (mask.key_range(first, last, keys) for mask in (self.left, self.right))
        begin = max(left[0], right[0])
        return begin, max(begin, min(left[1], right[1]))

    def block_ranges(self, queries: Axis, keys: Axis, block: int) -> BlockRanges | None:
        left, right = (mask.block_ranges(queries, keys, block) for mask in (self.left, self.right))
        if left is None or right is None:
            return left or right
        return BlockRanges(jnp.maximum(left.first, right.first), jnp.minimum(left.end, right.end))


def shared_blocks(of_queries: jax.Array, of_keys: jax.Array, block: int) -> jax.Array:
    """Whether a block of queries and a block of keys may share a segment in any row: booleans [blocks of queries,
    blocks of keys].

    They may if the ids of the two blocks, from the least to the greatest, overlap.

    Args:
        of_queries: The segment of each query: integers [rows, queries].
        of_keys: The segment of each key: integers [rows, keys].
        block: Queries, and keys, of a block.
    """
    queries, keys = (ids.reshape(len(ids), -1, block) for ids in (of_queries, of_keys))
    overlap = (queries.min(-1)[:, :, None] <= keys.max(-1)[:, None]) & (
        queries.max(-1)[:, :, None] >= keys.min(-1)[:, None]
    )
    return overlap.any(0)


def _alike(left: NamedArray, right: NamedArray) -> tuple[NamedArray, NamedArray]:
    """Broadcast two arrays to the axes of both, in the order of the array with more axes."""
    if len(left.axes) < len(right.axes):
        left, right = right, left
    axes = (*left.axes, *(axis for axis in right.axes if axis not in left.axes))
    return left.broadcast_to(axes), right.broadcast_to(axes)
