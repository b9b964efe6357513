"""Log-likelihoods of parts of texts, many texts at once.

Two things make this fast. Texts that begin alike share the computation of their beginning: several next tokens after the same text, such as
the letters of multiple choice, are one row (`halcyon.evals.spans`); several endings of the same text are rows that begin with a copy of
the text's cache (`halcyon.evals.endings`). And logits are computed only where a token is scored, in blocks.

Rows are sorted by length, cut into batches of nearly the same length, and padded on the right: later positions do not change earlier ones
in a causal model. There are two lengths for each doubling, so few programs are compiled. A batch has about the same number of positions
whatever the length of its rows.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike

from halcyon.evals.endings import Group, computed_together, grouped
from halcyon.evals.logits import log_probs_at
from halcyon.evals.spans import Row, Score, Span, bucket, power, rows_of
from halcyon.inference.mesh import context_of, mesh_of
from halcyon.models import CausalLM, Inputs
from halcyon.models.axes import BATCH, POSITION
from halcyon.models.cache import KeepsCache

__all__ = ["Likelihoods", "Score", "Span", "default_batch_tokens", "span_of"]

_SHORTEST = 32
"""Positions of the shortest rows."""


def default_batch_tokens() -> int:
    """Positions of a batch: on a CPU, more of them leave its caches and take longer each; an accelerator needs many to be busy."""
    return 1024 if jax.default_backend() == "cpu" else 16384


class Likelihoods:
    """Computes log-likelihoods with one model.

    Args:
        model: The model; it may be divided among devices (see `halcyon.inference.mesh`).
        compute_dtype: Type of activations and matrix products; logits and log-likelihoods are float32.
        batch_tokens: Positions of a batch. Default: `default_batch_tokens`.
    """

    def __init__(self, model: CausalLM, *, compute_dtype: DTypeLike = jnp.float32, batch_tokens: int | None = None) -> None:
        self._model, self._dtype, self._mesh = model, jnp.dtype(compute_dtype).name, mesh_of(model)
        self._batch_tokens = batch_tokens or default_batch_tokens()

    def scores(self, spans: Sequence[Span]) -> list[Score]:
        """The score of each span, in their order.

        A text that is longer than the model's positions loses its beginning.

        Raises:
            BadConfiguration: The scored part alone is longer than the model's positions.
            ValueError: A span has no token, or no token before it.
        """
        rows = rows_of(spans, self._model.max_position.size)
        groups, alone = grouped(rows) if isinstance(self._model, KeepsCache) else ([], rows)
        found: dict[int, Score] = {}
        with context_of(self._mesh):
            for batch in self._batches(alone):
                found.update(self._computed(batch))
            for batch in self._group_batches(groups):
                found.update(computed_together(self._model, batch, self._dtype, self._batch_tokens, self._mesh))
        return [found[number] for number in range(len(spans))]

    def _batches(self, rows: list[Row]) -> Iterator[list[Row]]:
        """Rows of nearly one length, with as many scored positions and as many targets each."""

        def shape(row: Row) -> tuple[int, int, int]:
            return self._length(row), *_scored_shape(row)

        ordered = sorted(rows, key=lambda row: (*shape(row), row.spans))
        return _cut(ordered, shape, lambda row: self._batch_tokens // self._length(row))

    def _group_batches(self, groups: list[Group]) -> Iterator[list[Group]]:
        """Groups whose texts and endings have nearly the same lengths."""
        most = self._model.max_position.size

        def shape(group: Group) -> tuple[int, int]:
            return group.shape(most)

        ordered = sorted(groups, key=lambda group: (*shape(group), group.rows[0].spans))
        return _cut(ordered, shape, lambda group: self._batch_tokens // shape(group)[0])

    def _length(self, row: Row) -> int:
        return min(bucket(len(row.inputs), _SHORTEST), self._model.max_position.size)

    def _computed(self, batch: list[Row]) -> dict[int, Score]:
        length, (positions, targets) = self._length(batch[0]), _scored_shape(batch[0])
        size = min(power(len(batch), 1), max(1, self._batch_tokens // length))
        tokens, at = np.zeros((size, length), np.int32), np.zeros((size, positions), np.int32)
        wanted = np.zeros((size, positions, targets), np.int32)
        for place, row in enumerate(batch):
            tokens[place, : len(row.inputs)] = row.inputs
            at[place, : len(row.targets)] = np.arange(len(row.inputs) - len(row.targets), len(row.inputs))
            wanted[place, : len(row.targets), : row.targets.shape[1]] = row.targets
        log_probs, best = jax.device_get(_scored(self._model, tokens, at, wanted, dtype=self._dtype, mesh=self._mesh))
        found: dict[int, Score] = {}
        for place, row in enumerate(batch):
            found.update(row.scores(log_probs[place], best[place]))
        return found


def _cut(ordered: list[Any], shape: Any, most: Any) -> Iterator[list[Any]]:
    """Parts of a list whose members have one shape, each part with at most `most` of its first member, at least 1."""
    begin = 0
    while begin < len(ordered):
        first = ordered[begin]
        end = begin + 1
        while end < len(ordered) and end - begin < most(first) and shape(ordered[end]) == shape(first):
            end += 1
        yield ordered[begin:end]
        begin = end


def _scored_shape(row: Row) -> tuple[int, int]:
    """Scored positions, and targets at each, of the batch that a row belongs to."""
    return power(len(row.targets), 1), power(row.targets.shape[1], 1)


@functools.partial(jax.jit, static_argnames=("dtype", "mesh"))
def _scored(
    model: CausalLM, tokens: jax.Array, positions: jax.Array, targets: jax.Array, *, dtype: str, mesh: Mesh | None
) -> tuple[jax.Array, jax.Array]:
    """Log-probabilities of tokens after some positions, and the most likely token after each.

    Args:
        model: The model.
        tokens: int32 [row, position].
        positions: int32 [row, scored]: the position before each scored token.
        targets: int32 [row, scored, target].
        dtype: Type of activations and matrix products.
        mesh: The mesh of the context. None: one device.

    Returns:
        float32 [row, scored, target], and int32 [row, scored].
    """
    del mesh  # programs for another mesh are other programs
    outputs = model(Inputs(hax.named(tokens, (BATCH, POSITION))), compute_dtype=jnp.dtype(dtype))
    features = outputs.features.rearrange((BATCH, POSITION, model.embed.name)).array
    return log_probs_at(model, jnp.take_along_axis(features, positions[..., None], 1), targets)


def span_of(prefix: Any, continuation: Any, name: str) -> Span:
    """The span of a continuation after a prefix, both token ids."""
    return Span(np.concatenate((prefix, continuation)).astype(np.int32), len(prefix), name)
