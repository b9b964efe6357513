"""What the attention kernels of JAX share: arrays of plain axes, and masks in the few forms that kernels know.

A kernel takes one array of rows, heads, positions and features. Each device calls it on its own rows and heads, because
XLA cannot partition a kernel.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from haliax import NamedArray

from halcyon.models.axes import BATCH, HEAD_SIZE, KEY_POSITION, POSITION
from halcyon.models.parts.attention_blocks import AttentionShape
from halcyon.models.parts.masks import Causal, Mask, Nearby, Segments, Window, conjuncts, surely_sees_itself


class KernelMask(NamedTuple):
    """A mask in the form that kernels know. All its parts hold together."""

    causal: bool
    """No key after the query's own position."""
    window: int | None
    """No key this number of positions, or more, before the query's own. None: no limit."""
    segments: Segments | None
    """Only keys of the query's segment."""
    reach: int | None = None
    """No key further away than this number of positions. None: no limit."""


def kernel_mask(mask: Mask | None) -> KernelMask | None:
    """The form of a mask; None if it has none, or if a query may see no key."""
    parts = conjuncts(mask)
    causal = [part for part in parts if isinstance(part, Causal)]
    windows = [part for part in parts if isinstance(part, Window)]
    segments = [part for part in parts if isinstance(part, Segments)]
    near = [part for part in parts if isinstance(part, Nearby)]
    known = len(causal) + len(windows) + len(segments) + len(near) == len(parts)
    if (
        not known
        or len(segments) > 1
        or (near and (causal or windows))
        or not surely_sees_itself(mask)
        or any(_axes(part) - {BATCH, POSITION, KEY_POSITION} for part in segments)
    ):
        return None
    return KernelMask(
        bool(causal),
        min((part.size for part in windows), default=None),
        segments[0] if segments else None,
        min((part.reach for part in near), default=None),
    )


def _axes(segments: Segments) -> set[str]:
    return {axis.name for x in (segments.of_queries, segments.of_keys) if x is not None for axis in x.axes}


class Layout(NamedTuple):
    """The names of the axes of one call by their roles, and the arrays of plain axes that kernels take.

    Queries h * n to h * n + n - 1, of n that share keys, have the keys h.
    """

    rows: tuple[str, ...]
    """The batch, if there is one."""
    of_keys: tuple[str, ...]
    """Heads of keys."""
    of_queries: tuple[str, ...]
    """Heads of queries: those of keys, then those that share keys."""

    @staticmethod
    def of(query: NamedArray, key: NamedArray) -> Layout:
        """The layout of a call."""
        rows = tuple(name for name in key.axis_names if name == BATCH)
        heads = tuple(name for name in key.axis_names if name not in (*rows, KEY_POSITION, HEAD_SIZE))
        sharing = tuple(name for name in query.axis_names if name not in (*rows, *heads, POSITION, HEAD_SIZE))
        return Layout(rows, heads, (*heads, *sharing))

    def array(self, x: NamedArray, heads: tuple[str, ...], *last: str) -> jax.Array:
        """`x` as [rows, heads, ...], with the axes `last` in the place of the dots."""
        ordered = x.rearrange((*self.rows, *heads, *last)).array
        return ordered.reshape(ordered.shape[0] if self.rows else 1, -1, *ordered.shape[ordered.ndim - len(last) :])

    def named(self, array: jax.Array, like: NamedArray, heads: tuple[str, ...], *last: str) -> NamedArray:
        """The inverse of `array`: rows and heads have the sizes that they have in `like`."""
        outer = (*self.rows, *heads)
        return NamedArray(array.reshape(*(like.axis_size(name) for name in outer), *array.shape[2:]), (*outer, *last))


def result_names(query: NamedArray, form: AttentionShape) -> tuple[str, ...]:
    """The axes of the result of a call."""
    return tuple(form.value_size.name if name == HEAD_SIZE else name for name in query.axis_names)


def rows_of(ids: NamedArray, rows: int) -> jax.Array:
    """Ids of segments as [rows, position]."""
    array = ids.array if ids.array.ndim == 1 else ids.rearrange((BATCH, ...)).array
    return jnp.broadcast_to(array, (rows, array.shape[-1]))
