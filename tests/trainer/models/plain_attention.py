"""Attention in NumPy and float64, one query at a time. A function of the indices says which keys a query sees."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Sees = Callable[[int, int, int], bool]
"""Whether a query sees a key, by (row of the batch, index of the query, index of the key)."""


def plain_attention(
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    sees: Sees,
    *,
    scale: float,
    soft_cap: float | None = None,
    sinks: np.ndarray | None = None,
) -> np.ndarray:
    """Return [batch, queries, kv heads, group, value size].

    Args:
        query: [batch, queries, kv heads, group, size].
        key: [batch, keys, kv heads, size].
        value: [batch, keys, kv heads, value size].
        sees: Which keys a query sees.
        scale: Factor of the scores.
        soft_cap: Limit of the scores, by tanh; None: no limit.
        sinks: [kv heads, group].
    """
    batch, queries, heads, group, _ = query.shape
    out = np.zeros((batch, queries, heads, group, value.shape[-1]))
    for row, number, head, member in np.ndindex(batch, queries, heads, group):
        seen = [at for at in range(key.shape[1]) if sees(row, number, at)]
        scores = scale * key[row, seen, head] @ query[row, number, head, member]
        if soft_cap is not None:
            scores = soft_cap * np.tanh(scores / soft_cap)
        extra = [] if sinks is None else [sinks[head, member]]
        if not len(seen):
            continue
        powers = np.exp(scores - max([*scores, *extra]))
        total = powers.sum() + sum(np.exp(one - max([*scores, *extra])) for one in extra)
        out[row, number, head, member] = powers / total @ value[row, seen, head]
    return out
