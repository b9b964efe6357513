"""Several endings of the same text: the text is computed once, and each ending goes on from a copy of its cache."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from halcyon.evals.logits import log_probs_at
from halcyon.evals.spans import Row, Score, bucket, power
from halcyon.models import Inputs
from halcyon.models.axes import BATCH, POSITION

SHORTEST = 32
"""Positions of the shortest texts."""
_LEAST_SHARED = 8
"""Positions of the shortest text that is computed apart from its endings."""


class Group(NamedTuple):
    """Rows whose positions before the scored ones have the same tokens."""

    rows: tuple[Row, ...]

    @property
    def text(self) -> np.ndarray:
        """int32 [position]: the tokens before the endings."""
        return self.rows[0].inputs[: self.rows[0].context]

    def shape(self, most: int) -> tuple[int, int]:
        """Positions of the text and of the endings in the group's batch.

        Args:
            most: Positions of the model.
        """
        longest = max(len(row.targets) for row in self.rows)
        length, ending = bucket(len(self.text), SHORTEST), power(longest, 1)
        return (length, ending) if length + ending <= most else (len(self.text), longest)


def grouped(rows: Sequence[Row]) -> tuple[list[Group], list[Row]]:
    """The rows that share their text with another one, and the others."""
    by_text: dict[bytes, list[Row]] = {}
    for row in rows:
        by_text.setdefault(row.inputs[: row.context].tobytes(), []).append(row)
    groups = [Group(tuple(found)) for found in by_text.values() if len(found) > 1 and found[0].context >= _LEAST_SHARED]
    shared = {id(row) for group in groups for row in group.rows}
    return groups, [row for row in rows if id(row) not in shared]


def computed_together(model: Any, batch: Sequence[Group], dtype: str, batch_tokens: int, mesh: Mesh | None = None) -> dict[int, Score]:
    """The scores of the rows of some groups.

    Args:
        model: A model that keeps a cache.
        batch: Groups of one shape.
        dtype: Type of activations and matrix products.
        batch_tokens: Positions of a batch; it bounds the padding of the number of texts.
        mesh: The mesh of the context. None: one device.
    """
    length, ending = batch[0].shape(model.max_position.size)
    texts = min(power(len(batch), 1), max(len(batch), batch_tokens // length))
    rows = [(owner, row) for owner, group in enumerate(batch) for row in group.rows]
    count, targets = bucket(len(rows), 4), power(max(row.targets.shape[1] for _, row in rows), 1)
    tokens, lengths = np.zeros((texts, length), np.int32), np.zeros(texts, np.int32)
    for place, group in enumerate(batch):
        tokens[place, : len(group.text)], lengths[place] = group.text, len(group.text)
    owners, counts = np.zeros(count, np.int32), np.zeros(count, np.int32)
    ends, wanted = np.zeros((count, ending), np.int32), np.zeros((count, ending, targets), np.int32)
    for place, (owner, row) in enumerate(rows):
        size = len(row.targets)
        owners[place], counts[place] = owner, size
        ends[place, :size], wanted[place, :size, : row.targets.shape[1]] = row.inputs[row.context :], row.targets
    log_probs, best = jax.device_get(_scored(model, tokens, lengths, owners, ends, counts, wanted, dtype=dtype, mesh=mesh))
    found: dict[int, Score] = {}
    for place, (_, row) in enumerate(rows):
        found.update(row.scores(log_probs[place], best[place]))
    return found


@functools.partial(jax.jit, static_argnames=("dtype", "mesh"))
def _scored(
    model: Any,
    tokens: jax.Array,
    lengths: jax.Array,
    owners: jax.Array,
    ends: jax.Array,
    counts: jax.Array,
    targets: jax.Array,
    *,
    dtype: str,
    mesh: Mesh | None,
) -> tuple[jax.Array, jax.Array]:
    """Log-probabilities of the tokens of endings, and the most likely token at each position.

    Args:
        model: The model.
        tokens: int32 [text, position].
        lengths: int32 [text]: positions that count.
        owners: int32 [ending]: the text of each.
        ends: int32 [ending, position]: the tokens of each; they begin with the last token of the text.
        counts: int32 [ending]: positions that count.
        targets: int32 [ending, position, target]: the tokens after each position.
        dtype: Type of activations and matrix products.
        mesh: The mesh of the context.

    Returns:
        float32 [ending, position, target], and int32 [ending, position].
    """
    del mesh  # programs for another mesh are other programs
    compute = jnp.dtype(dtype)
    empty = model.new_cache(len(tokens), tokens.shape[1] + ends.shape[1], compute)
    before = model(Inputs(hax.named(tokens, (BATCH, POSITION))), cache=empty.expecting(lengths), compute_dtype=compute)
    cache = before.cache.copied(owners).expecting(counts)
    outputs = model(Inputs(hax.named(ends, (BATCH, POSITION))), cache=cache, compute_dtype=compute)
    features = outputs.features.rearrange((BATCH, POSITION, model.embed.name)).array
    return log_probs_at(model, features, targets)
