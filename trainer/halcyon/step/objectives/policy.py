"""Policy optimization: a loss over answers that the model sampled, each with the advantage of its reward.

A row of the batch is a prompt and an answer. Advantages are computed from whole groups before the step, and
normalizations are weights of tokens. So the loss is a weighted sum that is divided once, and microbatches and the mesh
change it only by rounding.

In a step whose weights sampled the answers, the ratio of each token is 1, and only its gradient matters. The objective
then takes the log-probabilities of the step itself in the place of those of sampling, without a gradient. In other
steps the batch has those of the weights that sampled. With ``updatesPerRollout`` they are computed by
`Policy.log_probs`, which is the same program: the decoding program rounds in another way. With ``delaySteps`` or a
``correction`` they are those with which the decoding program chose the tokens.

Arrays of tokens have the axes [answer, token] and the type float32. `counts` is 1 for a token that the model sampled,
and 0 for the prompt, the padding and the tokens of tools.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import haliax as hax
import jax
import jax.numpy as jnp
from haliax import NamedArray

from halcyon.models.axes import BATCH, POSITION
from halcyon.models.log_probs import token_draws, token_log_probs
from halcyon.models.model import CausalLM, Inputs, Outputs, with_products
from halcyon.models.softmax import Softmax, at_temperature
from halcyon.step.objectives.objective import Batch, Common, Sums, named, reference_model, typed, with_routers
from halcyon.step.objectives.teacher import Teacher
from halcyon_api.spec.objective import TRUNCATION, PolicySpec, TeacherSpec

_MOST_LOG_RATIO = 20.0
"""Greatest magnitude of the logarithm of a ratio: its exponential must be finite."""


class TokenLosses(NamedTuple):
    """Numbers of each token: float32 [answer, token]."""

    loss: jax.Array
    """To be minimised."""
    clipped: jax.Array
    """1 where the ratio is clipped, so that the token has no gradient from its advantage, or truncated."""
    kl: jax.Array | None
    """Estimate of the KL to the reference, in nats; None without a reference."""


def token_losses(
    spec: PolicySpec,
    log_probs: jax.Array,
    sampled: jax.Array,
    reference: jax.Array | None,
    advantages: jax.Array,
    counts: jax.Array,
) -> TokenLosses:
    """The clipped loss of each token (Schulman et al. 2017, equation 7; Shao et al. 2024, equation 3).

    ``-min(r A, clip(r, 1 - clipLow, 1 + clipHigh) A) + beta KL``, where r is a ratio of probabilities under the trained
    model and under the one that sampled: that of the token, or the geometric mean over the tokens of the answer (GSPO;
    Zheng et al. 2025, equation 7).

    With a ``correction`` by token or sequence, r, which then has no gradient, is a weight of at most ``truncation``:
    ``-min(r, truncation) A log p + beta KL`` (Espeholt et al. 2018, "IMPALA"; Yao et al. 2025, "TIS"; MiniMax 2025,
    "CISPO"), where r of a sequence is the product over its tokens. Its value is that of ``-min(r, truncation) A``.

    KL is the estimator ``q - log q - 1`` with q = reference / trained (Schulman 2020,
    "Approximating KL divergence").

    Args:
        spec: ``spec.objective.policy``.
        log_probs: Under the trained model.
        sampled: Under the model that sampled the answers.
        reference: Under the reference. None: without one.
        advantages: Of each token.
        counts: See this module.
    """
    log_ratio = log_probs - sampled
    if "sequence" in (spec.ratio, spec.correction):
        tokens = jnp.maximum(jnp.sum(counts, axis=1, keepdims=True), 1.0) if spec.ratio == "sequence" else 1.0
        log_ratio = jnp.broadcast_to(jnp.sum(log_ratio * counts, axis=1, keepdims=True) / tokens, counts.shape)
    ratio = jnp.exp(jnp.clip(log_ratio, -_MOST_LOG_RATIO, _MOST_LOG_RATIO))
    if spec.truncates:
        most, one = spec.truncation or TRUNCATION, jnp.exp(log_probs - jax.lax.stop_gradient(log_probs))
        loss, clipped = -jax.lax.stop_gradient(jnp.minimum(ratio, most)) * advantages * one, ratio > most
    else:
        low, high = 1 - spec.clip_low, 1 + spec.clip_high
        loss = -jnp.minimum(ratio * advantages, jnp.clip(ratio, low, high) * advantages)
        clipped = ((advantages > 0) & (ratio > high)) | ((advantages < 0) & (ratio < low))
    if reference is None:
        return TokenLosses(loss, clipped.astype(jnp.float32), None)
    log_q = reference - log_probs
    kl = jnp.exp(jnp.clip(log_q, -_MOST_LOG_RATIO, _MOST_LOG_RATIO)) - log_q - 1
    return TokenLosses(loss + spec.beta * kl, clipped.astype(jnp.float32), kl)


def token_weights(spec: PolicySpec, counts: jax.Array) -> jax.Array:
    """The weight of each token in the sum of the losses: float32 [answer, token].

    - ``token``: 1, so that each token weighs the same (DAPO; Yu et al. 2025, equation 8);
    - ``sequence``: 1 / (tokens of the answer), so that each answer does (Shao et al. 2024, equation 3);
    - ``constant``: 1 / ``maxTokens`` (Dr. GRPO; Liu et al. 2025, section 3.2).
    """
    match spec.normalization:
        case "token":
            return counts
        case "sequence":
            return counts / jnp.maximum(jnp.sum(counts, axis=1, keepdims=True), 1.0)
        case "constant":
            return counts / spec.max_tokens


def total_weight(spec: PolicySpec, counts: jax.Array) -> jax.Array:
    """What the sum of the losses is divided by: tokens with the normalization ``token``, else answers; float32
    scalar.
    """
    if spec.normalization == "token":
        return jnp.sum(counts)
    return jnp.sum(jnp.max(counts, axis=1))


SAMPLED_LOG_PROBS = "sampled_log_probs"
"""The array of a batch with the log-probabilities under the weights that sampled, where these may not be the trained
ones.
"""


@dataclass(frozen=True)
class Policy(Common):
    """A loss over sampled answers.

    Attributes:
        spec: ``spec.objective.policy`` of the run.
        teacher: ``spec.objective.teacher``.
    """

    spec: PolicySpec
    teacher: TeacherSpec | None = None

    per_token = False

    @property
    def fields(self) -> dict[str, Any]:
        """See `halcyon.step.objectives.objective.Objective`. ``weights`` is 1 for a token that the model sampled."""
        known = (SAMPLED_LOG_PROBS,) if self.spec.has_sampled_log_probs else ()
        return typed("tokens", "targets", "weights", "advantages", *known)

    def __call__(self, model: CausalLM, batch: Batch, frozen: CausalLM | None, key: jax.Array | None) -> Sums:
        """See `halcyon.step.objectives.objective.Objective`. Metrics, weighted as the loss is:

        - ``clipped_tokens``: 1 for a token whose ratio is clipped;
        - ``entropy``: minus the log-probability of the sampled token, an estimate of the entropy of the model, in nats;
        - ``kl``: the estimate of the KL to the reference, in nats, if there is one.
        """
        del key
        log_probs, outputs = self._log_probs(self.dropping(model, batch), batch)
        sampled = batch[SAMPLED_LOG_PROBS] if self.spec.has_sampled_log_probs else jax.lax.stop_gradient(log_probs)
        counts = batch["weights"]
        found = token_losses(
            self.spec, log_probs, sampled, self._reference(model, frozen, batch), batch["advantages"], counts
        )
        weights = token_weights(self.spec, counts)
        metrics = {"clipped_tokens": jnp.sum(weights * found.clipped), "entropy": jnp.sum(weights * -log_probs)}
        if found.kl is not None:
            metrics["kl"] = jnp.sum(weights * found.kl)
        of_row = hax.named(jnp.sum(weights, axis=1), (BATCH,))
        sums = Sums(jnp.sum(weights * found.loss), total_weight(self.spec, counts), metrics)
        sums = with_routers(sums, outputs, of_row)
        if self.teacher is None or frozen is None:
            return sums
        inputs, each = Inputs(*named(batch, ("tokens",)).values()), hax.named(weights, (BATCH, POSITION))
        teacher = Teacher(self.teacher, frozen)
        return teacher.taught(sums, model, outputs.features, inputs, each, self.compute_dtype)

    def log_probs(self, model: CausalLM, batch: Batch) -> jax.Array:
        """The log-probability of each target at the temperature of sampling, 0 where it does not count: float32 [batch,
        position].
        """
        return self._log_probs(model, batch)[0]

    def draws(
        self, model: CausalLM, batch: Batch, keys: jax.Array, noise: Callable[[jax.Array], jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        """The token that is drawn in the place of each target (int32), and `log_probs` (float32), both [batch,
        position].

        Args:
            model: The model.
            batch: As for `log_probs`.
            keys: [batch, position, key].
            noise: See `halcyon.models.log_probs.token_draws`.
        """
        features, targets, softmax, _ = self._features(model, batch)
        drawn, log_probs = token_draws(
            features, model.head, targets, softmax, hax.named(keys, (BATCH, POSITION, "key")), noise
        )
        found = log_probs.rearrange((BATCH, POSITION)).array
        return drawn.rearrange((BATCH, POSITION)).array, jnp.where(batch["weights"] > 0, found, 0.0)

    def _log_probs(self, model: CausalLM, batch: Batch) -> tuple[jax.Array, Outputs]:
        features, targets, softmax, outputs = self._features(model, batch)
        found = token_log_probs(features, model.head, targets, softmax).log_probs
        array = found.rearrange((BATCH, POSITION)).array
        return jnp.where(batch["weights"] > 0, array, 0.0), outputs

    def _features(self, model: CausalLM, batch: Batch) -> tuple[NamedArray, NamedArray, Softmax, Outputs]:
        """Features at the temperature of sampling, targets, and the softmax."""
        tokens, targets, weights = named(batch, ("tokens", "targets", "weights")).values()
        model = with_products(model, self.products)
        outputs = model(Inputs(tokens, weights=weights), compute_dtype=self.compute_dtype)
        features, softmax = at_temperature(outputs.features, model.softmax, self.spec.temperature)
        return features, targets, softmax, outputs

    def _reference(self, model: CausalLM, frozen: CausalLM | None, batch: Batch) -> jax.Array | None:
        """The log-probabilities under the reference; None for a loss without one."""
        if not self.spec.has_reference:
            return None
        reference = reference_model(model, frozen, "objective.policy with a beta")
        return jax.lax.stop_gradient(self._log_probs(reference, batch)[0])
