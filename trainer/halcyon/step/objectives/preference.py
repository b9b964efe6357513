"""Preference optimization: a loss over pairs of conversations, of which the first is preferred.

A row of the batch has one or several pairs: their conversations one after the other, the preferred one of each pair
first. They are the segments 1, 2, ... of the row, and attention stays inside a segment, so one pass over the batch
computes both answers of each pair. The loss is a sum over pairs, and the weight is their number, so microbatches,
packing and the mesh change the result only by rounding.

The reference model is the frozen argument of the objective. A model with an adapter needs none: without its adapter it
is the reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
from haliax import Axis, NamedArray

from halcyon.models import CausalLM, Inputs
from halcyon.models.adapters import has_adapter, with_dropout, without_adapter
from halcyon.models.axes import BATCH, POSITION
from halcyon.models.log_probs import token_log_probs
from halcyon.models.model import Outputs, with_products
from halcyon.step.objectives.objective import ROW_SEEDS, Batch, Sums, with_routers
from halcyon.step.objectives.preference_losses import Answers, pair_losses
from halcyon_api.spec.narrow_products import NarrowProducts
from halcyon_api.spec.objective import PreferenceSpec

_ANSWER = "answer"


@dataclass(frozen=True)
class Preference:
    """A loss over pairs.

    Attributes:
        spec: ``spec.objective.preference`` of the run.
        compute_dtype: Type of activations and matrix products. The loss itself is float32.
        products: Types of the factors of matrix products. None: `compute_dtype`.
    """

    spec: PreferenceSpec
    compute_dtype: jnp.dtype
    products: NarrowProducts | None = None

    per_token = False

    @property
    def fields(self) -> Mapping[str, np.dtype]:
        """See `halcyon.step.objectives.objective.Objective`."""
        integers = dict.fromkeys(("tokens", "targets", "segments", "positions"), np.dtype(np.int32))
        return {**integers, "weights": np.dtype(np.float32)}

    def __call__(self, model: CausalLM, batch: Batch, frozen: CausalLM | None, key: jax.Array | None) -> Sums:
        """See `halcyon.step.objectives.objective.Objective`. Metrics, for each pair:

        - ``preference_accuracy``: 1 if the preferred answer has the greater reward, else 0;
        - ``reward_margin``: difference of the rewards;
        - ``chosen_reward`` and ``rejected_reward``.
        """
        del key
        axes = (Axis(BATCH, batch["tokens"].shape[0]), Axis(POSITION, batch["tokens"].shape[1]))
        named: dict[str, Any] = {name: hax.named(batch[name], axes) for name in self.fields}
        trained = with_dropout(model, batch[ROW_SEEDS]) if ROW_SEEDS in batch else model
        log_probs, outputs = self._log_probs(trained, named)
        sums = _by_answer(log_probs * named["weights"], named["segments"], self.spec.pairs_per_row)
        tokens = _by_answer(named["weights"], named["segments"], self.spec.pairs_per_row)
        reference = self._reference_sums(model, frozen, named)

        def answers(first: int) -> Answers:
            known = None if reference is None else reference[:, first::2]
            return Answers(sums[:, first::2], known, jnp.maximum(tokens[:, first::2], 1.0))

        found = pair_losses(self.spec.value, answers(0), answers(1))
        there = jnp.minimum(
            jnp.minimum(tokens[:, 0::2], tokens[:, 1::2]), 1.0
        )  # 0 for a place without a pair, and for padding
        margin = found.chosen_reward - found.rejected_reward
        metrics = {
            "preference_accuracy": jnp.sum(there * (margin > 0)),
            "reward_margin": jnp.sum(there * margin),
            "chosen_reward": jnp.sum(there * found.chosen_reward),
            "rejected_reward": jnp.sum(there * found.rejected_reward),
        }
        of_row = hax.named(jnp.sum(there, axis=1), axes[0])
        return with_routers(Sums(jnp.sum(there * found.loss), jnp.sum(there), metrics), outputs, of_row)

    def _log_probs(self, model: CausalLM, named: Mapping[str, NamedArray]) -> tuple[NamedArray, Outputs]:
        """The log-probability of each target, [batch, position]."""
        model = with_products(model, self.products)
        inputs = Inputs(named["tokens"], named["positions"], named["segments"], named["weights"])
        outputs = model(inputs, compute_dtype=self.compute_dtype)
        found = token_log_probs(outputs.features, model.head, named["targets"], model.softmax)
        return found.log_probs, outputs

    def _reference_sums(
        self, model: CausalLM, frozen: CausalLM | None, named: Mapping[str, NamedArray]
    ) -> jax.Array | None:
        """Log-probabilities of the answers under the reference, [batch, answer]; None for a loss without one."""
        if not self.spec.has_reference:
            return None
        if frozen is None and not has_adapter(model):
            raise TypeError(
                f"objective.preference.{self.spec.kind} needs a reference model, or a model with an adapter"
            )
        reference = without_adapter(model) if frozen is None else frozen
        log_probs, _ = self._log_probs(jax.lax.stop_gradient(reference), named)
        return jax.lax.stop_gradient(
            _by_answer(log_probs * named["weights"], named["segments"], self.spec.pairs_per_row)
        )


def _by_answer(values: NamedArray, segments: NamedArray, pairs: int) -> jax.Array:
    """The sums of values [batch, position] over the segments 1, 2, ... of each row: float32 [batch, 2 pairs]."""
    answer = Axis(_ANSWER, 2 * pairs)
    hits: Any = hax.equal(segments.broadcast_axis(answer), hax.arange(answer) + 1)
    sums: Any = hax.sum(hax.where(hits, values, 0.0), POSITION)
    return sums.rearrange((BATCH, _ANSWER)).array
