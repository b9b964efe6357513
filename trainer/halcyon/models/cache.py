"""What a decoder keeps of the tokens that it has computed, so that the next token costs one position.

A cache has rows: one row for each sequence, with a length of its own. Layers that keep the same number of positions
form a group, and the states of a group are stacked in order:

- Attention without a window keeps an entry for each position of a row, in pages. A table gives the pages of each row,
  so rows of different lengths share one memory.
- Attention with a window of W keeps W entries for each row: position p lies at ``p % W``.
- A gated delta net keeps a state of fixed size.

The position of an entry follows from the length of its row, so it is not stored. A scan over layers carries all groups,
and each layer changes its own entries. XLA makes these changes in place, because the arrays are the carry of the loop.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray
from jax.typing import DTypeLike

from halcyon.models.axes import BATCH, KEY_POSITION, POSITION
from halcyon.models.model import Inputs, Outputs
from halcyon.models.partition import divided
from halcyon.models.parts.masks import Block, Mask


@dataclass(frozen=True)
class PositionState:
    """A layer that keeps entries for positions.

    Attributes:
        features: The features of an entry, for each array that the layer keeps.
        window: Positions that a query sees, its own included. None: all earlier ones.
        part: The part of the model. Layers of one part and window keep the same features.
    """

    features: tuple[tuple[Axis, ...], ...]
    window: int | None = None
    part: str = ""


@dataclass(frozen=True)
class FixedState:
    """A layer that keeps a state of fixed size.

    Attributes:
        shapes: The shape of each array for one row, and whether it is float32 whatever the type of the cache.
    """

    shapes: tuple[tuple[tuple[int, ...], bool], ...]


class Group(eqx.Module):
    """The states of layers that keep the same number of positions.

    Attributes:
        arrays: [layer, row, ..., entry, last]; of paged layers [layer, page, entry of the page, ...]; of fixed states
            [layer, row, ...].
        entries: Entries of a row; 0 for fixed states.
        paged: Whether the table gives the entries of a row.
    """

    arrays: tuple[jax.Array, ...]
    entries: int = eqx.field(static=True)
    paged: bool = eqx.field(static=True)


class Cache(eqx.Module):
    """The states of all layers.

    Attributes:
        groups: By name; see `group_name`.
        lengths: int32 [row]: tokens that each row has.
        table: int32 [row, page]: the pages of each row. An index that is not below the number of pages: no page.
        counts: int32 [row]: tokens of the next call that count, from the first; the others are padding. None: all.
        until: int32 [row, position]: the last token of the next call that each one sees. None: itself.
        shift: int32 [row]: by how much positions of the next call are less than the tokens before. None: 0.
        length: Most tokens of a row.
    """

    groups: dict[str, Group]
    lengths: jax.Array
    table: jax.Array
    counts: jax.Array | None = None
    until: jax.Array | None = None
    shift: jax.Array | None = None
    length: int = eqx.field(static=True, default=0)

    @staticmethod
    def of(
        layers: Sequence[PositionState | FixedState],
        rows: int,
        length: int,
        dtype: DTypeLike,
        *,
        page: int = 16,
        pages: int | None = None,
    ) -> Cache:
        """An empty cache.

        Args:
            layers: What each layer keeps, in order.
            rows: Sequences.
            length: Most tokens of a sequence.
            dtype: Type of the entries: the compute type.
            page: Entries of a page.
            pages: Pages that the rows share; the caller then fills the table. None: each row has all pages that it can
                need.

        Raises:
            ValueError: A size is not positive.
        """
        if min(rows, length, page) < 1 or (pages is not None and pages < 1):
            raise ValueError(
                f"a cache of {rows} rows, {length} tokens and pages of {page} is empty; give positive numbers"
            )
        of_row = -(-length // page)
        shared = rows * of_row if pages is None else pages
        named: dict[str, list[PositionState | FixedState]] = {}
        for layer in layers:
            named.setdefault(group_name(layer, length), []).append(layer)

        def group(name: str) -> Group:
            like, count = named[name][0], len(named[name])
            if isinstance(like, FixedState):
                arrays = tuple(
                    jnp.zeros((count, rows, *shape), jnp.float32 if wide else dtype) for shape, wide in like.shapes
                )
                return Group(arrays, 0, False)
            paged = name.startswith(_ALL) and pages is not None
            entries = of_row * page if paged else min(like.window or length, length)
            outer = Axis("cache_layer", count), Axis("cache_page", shared) if paged else Axis(BATCH, rows)
            entry = Axis("cache_entry", page if paged else entries)

            def zeros(axes: tuple[Axis, ...]) -> jax.Array:
                inner = (entry, *axes) if paged else (*axes[:-1], entry, axes[-1])
                return divided(hax.zeros((*outer, *inner), dtype=dtype)).array  # by rows and heads

            arrays = tuple(map(zeros, like.features))
            return Group(arrays, entries, paged)

        numbers = jnp.arange(rows * of_row, dtype=jnp.int32).reshape(rows, of_row)
        return Cache(
            groups={name: group(name) for name in named},
            lengths=jnp.zeros(rows, jnp.int32),
            table=numbers if pages is None else jnp.full((rows, of_row), shared, jnp.int32),
            length=length,
        )

    def row(self, row: jax.Array, begins: jax.Array) -> Cache:
        """One row as a cache of its own.

        Args:
            row: Its number.
            begins: Whether a new sequence begins in it: then its length and its fixed states are 0.
        """

        def part(x: jax.Array, axis: int) -> jax.Array:
            return jax.lax.dynamic_slice_in_dim(x, row, 1, axis)

        def of_group(group: Group) -> Group:
            if group.paged:
                return group
            arrays = tuple(part(x, 1) for x in group.arrays)
            if not group.entries:
                arrays = tuple(jnp.where(begins, jnp.zeros_like(x), x) for x in arrays)
            return dataclasses.replace(group, arrays=arrays)

        return dataclasses.replace(
            self,
            groups={name: of_group(group) for name, group in self.groups.items()},
            lengths=jnp.where(begins, 0, part(self.lengths, 0)),
            table=part(self.table, 0),
            counts=None,
        )

    def with_row(self, row: jax.Array, one: Cache) -> Cache:
        """This cache with the row `one`, which `row` made and a model changed."""

        def joined(x: jax.Array, part: jax.Array, axis: int) -> jax.Array:
            return jax.lax.dynamic_update_slice_in_dim(x, part, row, axis)

        def of_group(group: Group, changed: Group) -> Group:
            if group.paged:
                return changed
            return dataclasses.replace(
                group, arrays=tuple(joined(x, part, 1) for x, part in zip(group.arrays, changed.arrays, strict=True))
            )

        groups = {name: of_group(group, one.groups[name]) for name, group in self.groups.items()}
        return dataclasses.replace(self, groups=groups, lengths=joined(self.lengths, one.lengths, 0))

    def copied(self, rows: jax.Array) -> Cache:
        """A cache whose rows are copies of rows of this one, such as of one text with several endings.

        Args:
            rows: int32 [new row]: the row that each is a copy of. The pages of a row of this cache are its own, as `of`
                gives them.
        """
        count, of_row = len(rows), self.table.shape[1]

        def of_group(group: Group) -> Group:
            copies = rows
            if group.paged:
                copies = (rows[:, None] * of_row + jnp.arange(of_row, dtype=jnp.int32)).reshape(-1)
            return dataclasses.replace(group, arrays=tuple(x[:, copies] for x in group.arrays))

        return dataclasses.replace(
            self,
            groups={name: of_group(group) for name, group in self.groups.items()},
            lengths=self.lengths[rows],
            table=jnp.arange(count * of_row, dtype=jnp.int32).reshape(count, of_row),
            counts=None,
        )

    def expecting(self, counts: jax.Array, until: jax.Array | None = None, shift: jax.Array | None = None) -> Cache:
        """This cache, with the number of tokens of each row that count in the next call, what they see of it, and by
        how much their positions are less."""
        return dataclasses.replace(self, counts=counts, until=until, shift=shift)

    def placed(self, inputs: Inputs) -> Inputs:
        """`inputs` with the positions that follow those of the cache.

        Raises:
            ValueError: The inputs have positions or segments of their own.
        """
        if inputs.positions is not None or inputs.segments is not None:
            raise ValueError("with a cache, positions follow from it and a row is one segment; give tokens only")
        axis = inputs.tokens.resolve_axis(POSITION)
        positions = self.lengths[:, None] + jnp.arange(axis.size, dtype=jnp.int32)
        if self.shift is not None:
            positions = positions - self.shift[:, None]
        # Padding may lie after the last position. A learned position must exist for it too: NaN would reach the other
        # tokens.
        return inputs._replace(positions=hax.named(jnp.minimum(positions, self.length - 1), (BATCH, POSITION)))


_ALL, _FIXED = "all", "fixed"


def group_name(layer: PositionState | FixedState, length: int) -> str:
    """The name of a layer's group in a cache with rows of at most `length` tokens."""
    return _FIXED if isinstance(layer, FixedState) else _window_name(layer.window, length, layer.part)


def _window_name(window: int | None, length: int, part: str) -> str:
    return (_ALL if window is None or window >= length else f"window {window}") + part


@runtime_checkable
class KeepsCache(Protocol):
    """A model that can keep a cache. All families do; a custom model may."""

    def new_cache(self, rows: int, length: int, dtype: DTypeLike, *, pages: int | None = None) -> Cache:
        """An empty cache for this model; see `Cache.of`."""
        ...

    def __call__(
        self, inputs: Inputs, *, cache: Cache | None = None, compute_dtype: DTypeLike = jnp.float32
    ) -> Outputs:
        """See `CausalLM.__call__`.

        With a cache, `inputs` are the next tokens of each row, and `Outputs.cache` is the cache after them.
        """
        ...


class Layers(eqx.Module):
    """The part of a cache that a scan over layers carries.

    Attributes:
        groups: See `Cache`.
        following: int32: the number of the next layer of each group.
    """

    groups: dict[str, Group]
    following: dict[str, jax.Array]

    @staticmethod
    def of(cache: Cache) -> Layers:
        """Before the first layer."""
        return Layers(cache.groups, {name: jnp.zeros((), jnp.int32) for name in cache.groups})

    def closed(self, cache: Cache, tokens: NamedArray) -> Cache:
        """The cache after the last layer.

        Args:
            cache: The cache before the first layer.
            tokens: The tokens of the call.
        """
        size = tokens.resolve_axis(POSITION).size
        return dataclasses.replace(
            cache,
            groups=self.groups,
            lengths=cache.lengths + (size if cache.counts is None else cache.counts),
            counts=None,
            until=None,
            shift=None,
        )


class Memory:
    """One layer's part of a cache while the layer is traced.

    It is no tree of arrays: a step makes it from its carry, the layer reads and replaces its state, and the step
    returns `layers`.

    Args:
        cache: The cache before the call.
        layers: The carry of the scan.
        window: The window of the layer's attention. None: no window.
        fixed: Whether the layer has a fixed state.
        part: See `PositionState`.
    """

    def __init__(
        self, cache: Cache, layers: Layers, window: int | None = None, *, fixed: bool = False, part: str = ""
    ) -> None:
        self._cache, self._window = cache, window
        self._name = _FIXED if fixed else _window_name(window, cache.length, part)
        self._layer = layers.following[self._name]
        following = {**layers.following, self._name: self._layer + 1}
        self.layers = Layers(layers.groups, following)

    def counts(self, positions: int) -> jax.Array:
        """int32 [row]: how many of the new positions count."""
        given = self._cache.counts
        return jnp.full(self._cache.lengths.shape, positions, jnp.int32) if given is None else given

    @property
    def fixed(self) -> tuple[jax.Array, ...]:
        """The arrays of a fixed state: [row, ...]."""
        return tuple(self._read())

    def replace(self, arrays: Sequence[jax.Array]) -> None:
        """Replace the arrays of a fixed state."""
        whole = zip(self._group.arrays, arrays, strict=True)
        self._keep(
            tuple(jax.lax.dynamic_update_index_in_dim(x, new.astype(x.dtype), self._layer, 0) for x, new in whole)
        )

    def extended(self, *new: NamedArray) -> tuple[tuple[NamedArray, ...], Mask]:
        """Keep the entries of new positions.

        Args:
            new: For each array that the layer keeps, the entries: (batch, position, ...).

        Returns:
            The entries of all kept and new positions, with the axis ``key_position`` in the place of ``position``, and
            the mask of the keys that each new position sees.
        """
        cache, group = self._cache, self._group
        size = new[0].resolve_axis(POSITION).size
        rest = [tuple(name for name in x.axis_names if name not in (BATCH, POSITION)) for x in new]
        arrays = [x.rearrange((BATCH, POSITION, *names)).array for x, names in zip(new, rest, strict=True)]
        counts, numbers = self.counts(size), jnp.arange(size, dtype=jnp.int32)
        positions = cache.lengths[:, None] + numbers
        counted = numbers < counts[:, None]
        # A ring loses its oldest entries to the new ones, which earlier queries of the same call still see.
        beside = size > 1 and not group.paged and group.entries < cache.length
        if beside:
            both = zip(self._read(), arrays, strict=True)
            held = [jnp.concatenate((old, jnp.moveaxis(x, 1, -2).astype(old.dtype)), -2) for old, x in both]
            of_keys = jnp.concatenate((self._entry_positions(cache.lengths), jnp.where(counted, positions, -1)), 1)
            self._write(arrays, positions, counted & (numbers >= counts[:, None] - group.entries))
        else:
            self._write(arrays, positions, counted)
            held, of_keys = self._read(), self._entry_positions(cache.lengths + counts)
        place = 0 if group.paged else -1
        named = tuple(
            hax.named(x, (BATCH, *names[:place], KEY_POSITION, *names[place:]))
            for x, names in zip(held, rest, strict=True)
        )
        window = None if group.paged else self._window
        last = positions if cache.until is None else cache.lengths[:, None] + cache.until
        of_queries, last = (hax.named(x, (BATCH, POSITION)) for x in (positions, last))
        return named, KeptPositions(of_queries, last, hax.named(of_keys, (BATCH, KEY_POSITION)), window)

    @property
    def _group(self) -> Group:
        return self.layers.groups[self._name]

    def _keep(self, arrays: tuple[jax.Array, ...]) -> None:
        group = dataclasses.replace(self._group, arrays=arrays)
        self.layers = dataclasses.replace(self.layers, groups={**self.layers.groups, self._name: group})

    def _entry_positions(self, lengths: jax.Array) -> jax.Array:
        """int32 [row, entry]: the position of each entry, the latest one that lies there; negative: the entry is
        empty.
        """
        entries = self._group.entries
        last = lengths[:, None] - 1
        return last - (last - jnp.arange(entries, dtype=jnp.int32)) % entries

    def _read(self) -> list[jax.Array]:
        """[row, entry, ...]; without pages [row, ..., entry, last]."""
        if not self._group.paged:
            return [jax.lax.dynamic_index_in_dim(x, self._layer, 0, keepdims=False) for x in self._group.arrays]
        pages = [x.at[self._layer, self._cache.table].get(mode="clip") for x in self._group.arrays]
        return [x.reshape(x.shape[0], -1, *x.shape[3:]) for x in pages]

    def _write(self, arrays: Sequence[jax.Array], positions: jax.Array, kept: jax.Array) -> None:
        group, cache = self._group, self._cache
        entry = positions % group.entries
        if group.paged:
            none, page = group.arrays[0].shape[1:3]
            first = jnp.where(kept, jnp.take_along_axis(cache.table, entry // page, 1), none)
            second = entry % page
        else:
            first = jnp.arange(len(positions), dtype=jnp.int32)[:, None]
            second = jnp.where(kept, entry, group.entries)
        where = (self._layer, first, second) if group.paged else (self._layer, first, ..., second, slice(None))
        changed = zip(group.arrays, arrays, strict=True)
        self._keep(tuple(x.at[where].set(new.astype(x.dtype), mode="drop") for x, new in changed))


class KeptPositions(Mask):
    """A query sees the keys up to a position, which is not before its own.

    Attributes:
        of_queries: (batch, query axis) int32.
        last: That position: (batch, query axis) int32.
        of_keys: (batch, key axis) int32; negative: no key.
        window: Positions that a query sees, its own included. None: all earlier ones.
    """

    of_queries: NamedArray
    last: NamedArray
    of_keys: NamedArray
    window: int | None = eqx.field(static=True)

    def visible(self, queries: Block, keys: Block) -> NamedArray:
        """See `Mask.visible`."""
        of_keys = keys.of(self.of_keys)
        of_queries, last = (queries.of(x).broadcast_axis(keys.axis) for x in (self.of_queries, self.last))
        seen = (last >= of_keys) & (of_keys >= 0).broadcast_axis(queries.axis)
        return seen if self.window is None else seen & (of_queries - self.window < of_keys)
