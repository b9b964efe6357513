"""Vectors of texts, by contrast: the cross entropy of the text of a query among all texts of the batch.

A row of the batch has a query, the text that belongs to it, and perhaps texts that do not: the segments 1, 2, 3, ...
Attention stays inside a segment, so one pass over a row makes all its vectors. The loss of a query needs the vectors of
the whole batch. One microbatch has them all. Several are computed twice (Gao et al. 2021, GradCache): `prepared` makes
all vectors without a gradient, and the slope of the loss with respect to each; then each microbatch makes its own
vectors again, and the gradient of their products with the slopes is its part of the gradient of the batch. So the loss
depends neither on microbatches nor on the mesh, and each microbatch keeps only its own activations.
"""

from dataclasses import dataclass
from typing import Any

import haliax as hax
import jax
import jax.numpy as jnp

from halcyon.models.axes import BATCH, POSITION
from halcyon.models.model import CausalLM, Inputs, Outputs
from halcyon.models.pooling import pooled
from halcyon.step.objectives.objective import Batch, Common, Sums, named, typed, with_routers
from halcyon_api.spec.objective import ContrastiveSpec

_ABSENT = -1e9
"""The logit in the place of a text that is not there."""


@dataclass(frozen=True)
class Contrastive(Common):
    """InfoNCE (van den Oord et al. 2018, equation 4) with cosines, as ``MultipleNegativesRankingLoss`` of
    sentence-transformers computes it with the scale 1 / temperature.

    Attributes:
        spec: ``spec.objective.contrastive`` of the run.
        texts: Texts of a row, the query included.
    """

    spec: ContrastiveSpec
    texts: int
    fields = typed("tokens", "segments", "positions")
    """See `halcyon.step.objectives.objective.Objective`."""
    per_token = False
    """See `halcyon.step.objectives.objective.Objective`: the unit is a query."""

    def __call__(self, model: CausalLM, batch: Batch, frozen: Any, key: jax.Array | None) -> Sums:
        """See `halcyon.step.objectives.objective.Objective`. The metric ``accuracy`` is 1 for a query to which its text
        is the nearest of the batch, else 0."""
        del frozen, key
        vectors, there, outputs = self._vectors(model, batch)
        if "slopes" in batch:
            found, products = batch["found"], jnp.sum(batch["slopes"] * vectors)
            loss = jnp.sum(found[:, 0]) + products - jax.lax.stop_gradient(products)
        else:
            loss, found = self._of_vectors(vectors, there)
        sums = Sums(loss, jnp.sum(there[:, 1]), {"accuracy": jnp.sum(found[:, 1])})
        return with_routers(sums, outputs, hax.named(there[:, 1], (BATCH,)))

    def prepared(self, model: CausalLM, batch: Batch) -> Batch:
        """See `halcyon.step.objectives.objective.Objective`."""
        if len(batch["tokens"]) == 1:
            return batch
        vectors, there = jax.lax.map(lambda rows: self._vectors(model, rows)[:2], batch)
        flat = jnp.concatenate(vectors), jnp.concatenate(there)
        slopes, found = jax.grad(self._of_vectors, has_aux=True)(*flat)
        return {**batch, "slopes": slopes.reshape(vectors.shape), "found": found.reshape(*there.shape[:2], 2)}

    def _of_vectors(self, vectors: jax.Array, there: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The sum of the losses of queries; and the loss of each, and 1 if its text is the nearest: float32 [row, 2].

        Args:
            vectors: Float32 [row, text, embed].
            there: 1 for a text, 0 for a place without one: float32 [row, text].
        """
        squares = jnp.sum(vectors * vectors, -1, keepdims=True)
        unit = vectors * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))
        cosines = jnp.einsum("qe,rte->qtr", unit[:, 0], unit[:, 1:], precision=jax.lax.Precision.HIGHEST)
        logits = jnp.where(there[:, 1:].T > 0, cosines / self.spec.temperature, _ABSENT).reshape(len(there), -1)
        own = jnp.arange(len(there))  # the texts of all queries are the first ones
        losses, right = -jax.nn.log_softmax(logits)[own, own], jnp.argmax(logits, 1) == own
        found = there[:, 1:2] * jnp.stack([losses, right], 1)
        return jnp.sum(found[:, 0]), found

    def _vectors(self, model: CausalLM, batch: Batch) -> tuple[jax.Array, jax.Array, Outputs]:
        """The vectors of the texts of each row, [batch, text, embed], and which of them are there, [batch, text]; both
        float32.
        """
        members = batch["segments"][:, None] == jnp.arange(1, 1 + self.texts)[:, None]
        there = jnp.any(members, -1).astype(jnp.float32)
        there = there * there[:, 1:2]  # a row that only fills the batch has one segment
        counted = hax.named(jnp.any(members, 1) * there[:, 1:2], (BATCH, POSITION))
        model = self.dropping(model, batch)
        inputs = Inputs(**named(batch, self.fields), weights=counted)
        outputs = model.states(inputs, compute_dtype=self.compute_dtype)
        return pooled(outputs.features, members, self.spec.pooling).array, there, outputs
