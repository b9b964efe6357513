"""Policy optimization: a loss over answers that the model sampled, each with the advantage of its reward.

A row of the batch is a prompt and an answer. Advantages are computed from whole groups before the step, and
normalizations are weights of tokens. So the loss is a weighted sum that is divided once, and microbatches and the mesh
change it only by rounding.

In a step whose weights sampled the answers, the ratio of each token is 1, and only its gradient matters. The objective
then takes the log-probabilities of the step itself in the place of those of sampling, without a gradient. In other
steps the batch has those of the weights that sampled, computed by `Policy.log_probs`, which is the same program: the
decoding program rounds in another way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
from halcyon.step.objectives.policy_losses import token_losses, token_weights, total_weight
from halcyon_api.spec.narrow_products import NarrowProducts
from halcyon_api.spec.objective import PolicySpec

SAMPLED_LOG_PROBS = "sampled_log_probs"
"""The array of a batch with the log-probabilities under the weights that sampled, where these may not be the trained
ones.
"""


@dataclass(frozen=True)
class Policy:
    """A loss over sampled answers.

    Attributes:
        spec: ``spec.objective.policy`` of the run.
        compute_dtype: Type of activations and matrix products. The loss itself is float32.
        products: Types of the factors of matrix products. None: `compute_dtype`.
    """

    spec: PolicySpec
    compute_dtype: jnp.dtype
    products: NarrowProducts | None = None

    per_token = False

    @property
    def fields(self) -> Mapping[str, np.dtype]:
        """See `halcyon.step.objectives.objective.Objective`. ``weights`` is 1 for a token that the model sampled."""
        integers = dict.fromkeys(("tokens", "targets"), np.dtype(np.int32))
        floats = dict.fromkeys(
            ("weights", "advantages", *((SAMPLED_LOG_PROBS,) if self.spec.has_sampler else ())), np.dtype(np.float32)
        )
        return {**integers, **floats}

    def __call__(self, model: CausalLM, batch: Batch, frozen: CausalLM | None, key: jax.Array | None) -> Sums:
        """See `halcyon.step.objectives.objective.Objective`. Metrics, weighted as the loss is:

        - ``clipped_tokens``: 1 for a token whose ratio is clipped;
        - ``entropy``: minus the log-probability of the sampled token, an estimate of the entropy of the model, in nats;
        - ``kl``: the estimate of the KL to the reference, in nats, if there is one.
        """
        del key
        trained = with_dropout(model, batch[ROW_SEEDS]) if ROW_SEEDS in batch else model
        log_probs, outputs = self._log_probs(trained, batch)
        sampled = batch[SAMPLED_LOG_PROBS] if self.spec.has_sampler else jax.lax.stop_gradient(log_probs)
        counts = batch["weights"]
        found = token_losses(
            self.spec, log_probs, sampled, self._reference(model, frozen, batch), batch["advantages"], counts
        )
        weights = token_weights(self.spec, counts)
        metrics = {"clipped_tokens": jnp.sum(weights * found.clipped), "entropy": jnp.sum(weights * -log_probs)}
        if found.kl is not None:
            metrics["kl"] = jnp.sum(weights * found.kl)
        of_row = hax.named(jnp.sum(weights, axis=1), Axis(BATCH, counts.shape[0]))
        return with_routers(
            Sums(jnp.sum(weights * found.loss), total_weight(self.spec, counts), metrics), outputs, of_row
        )

    def log_probs(self, model: CausalLM, batch: Batch) -> jax.Array:
        """The log-probability of each target at the temperature of sampling, 0 where it does not count: float32 [batch,
        position].
        """
        return self._log_probs(model, batch)[0]

    def _log_probs(self, model: CausalLM, batch: Batch) -> tuple[jax.Array, Outputs]:
        axes = (Axis(BATCH, batch["tokens"].shape[0]), Axis(POSITION, batch["tokens"].shape[1]))
        tokens, targets, weights = (hax.named(batch[name], axes) for name in ("tokens", "targets", "weights"))
        model = with_products(model, self.products)
        outputs = model(Inputs(tokens, weights=weights), compute_dtype=self.compute_dtype)
        features, softmax = outputs.features, model.softmax
        temperature = self.spec.temperature
        if temperature != 1:  # cap tanh(x / cap) / t = (cap / t) tanh((x / t) / (cap / t))
            cap = softmax.soft_cap
            features, softmax = (
                _divided(features, temperature),
                softmax._replace(soft_cap=None if cap is None else cap / temperature),
            )
        found = token_log_probs(features, model.head, targets, softmax).log_probs
        array = found.rearrange((BATCH, POSITION)).array
        return jnp.where(batch["weights"] > 0, array, 0.0), outputs

    def _reference(self, model: CausalLM, frozen: CausalLM | None, batch: Batch) -> jax.Array | None:
        """The log-probabilities under the reference; None for a loss without one."""
        if not self.spec.has_reference:
            return None
        if frozen is None and not has_adapter(model):
            raise TypeError("objective.policy with a beta needs a reference model, or a model with an adapter")
        reference = without_adapter(model) if frozen is None else frozen
        return jax.lax.stop_gradient(self._log_probs(jax.lax.stop_gradient(reference), batch)[0])


def _divided(features: NamedArray, temperature: float) -> NamedArray:
    return NamedArray((features.array / temperature).astype(features.dtype), features.axis_names)
