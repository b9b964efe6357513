"""Next-token prediction: the cross entropy of each token given the tokens before it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
from haliax import NamedArray
from jax.typing import DTypeLike

from halcyon.models.axes import BATCH, POSITION
from halcyon.models.decoder import Decoder
from halcyon.models.dropout import masked
from halcyon.models.log_probs import cross_entropy, token_log_probs
from halcyon.models.model import CausalLM, Inputs, with_products
from halcyon.models.softmax import sampled_tokens
from halcyon.step.objectives.objective import ROW_SEEDS, Batch, Common, Sums, named, with_routers
from halcyon.step.objectives.teacher import Teacher
from halcyon_api.spec.objective import TeacherSpec


@dataclass(frozen=True)
class NextToken(Common):
    """Cross entropy of the targets.

    Attributes:
        segments: Whether attention stays within the documents of a sequence.
        z_loss: Factor of the z-loss, the squared logarithm of the softmax's denominator (Chowdhery et al. 2022, section
            5); 0: none.
        weights: The array of a batch with the weights of the targets: that of each token, or its share in its
            conversation.
        multi_token: Weight of the mean loss of the layers that predict further tokens. None: the model has none.
        beside: The arrays of what rows have beside tokens, and the types of a row's part of each.
        teacher: ``spec.objective.teacher``.
    """

    segments: bool
    z_loss: float = 0.0
    weights: Literal["weights", "conversation_weights"] = "weights"
    multi_token: float | None = None
    beside: tuple[tuple[str, np.dtype], ...] = ()
    teacher: TeacherSpec | None = None

    @property
    def per_token(self) -> bool:
        """See `halcyon.step.objectives.objective.Objective`."""
        return self.weights == "weights"

    @property
    def fields(self) -> Mapping[str, np.dtype]:
        """See `halcyon.step.objectives.objective.Objective`."""
        borders = self.segments or self.multi_token is not None
        names = ("tokens", "targets", self.weights, *(("segments",) if borders else ()))
        found = {name: np.dtype(np.float32 if name == self.weights else np.int32) for name in names}
        return found | dict(self.beside)

    def __call__(self, model: CausalLM, batch: Batch, frozen: Any, key: jax.Array | None) -> Sums:
        """See `halcyon.step.objectives.objective.Objective`."""
        del key
        arrays = named(batch, self.fields)
        inputs = self._inputs(arrays)
        if inputs.sound is not None and self.dropout is not None and ROW_SEEDS in batch:
            inputs = inputs._replace(sound=masked(inputs.sound, self.dropout, batch[ROW_SEEDS]))
        model = self.dropping(model, batch)
        return next_token_sums(
            model,
            inputs,
            arrays["targets"],
            arrays[self.weights],
            compute_dtype=self.compute_dtype,
            z_loss=self.z_loss,
            multi_token=None if self.multi_token is None else (self.multi_token, arrays["segments"]),
            teacher=None if self.teacher is None or frozen is None else Teacher(self.teacher, frozen),
        )

    def _inputs(self, arrays: Mapping[str, Any]) -> Inputs:
        segments = arrays["segments"] if self.segments else None
        return Inputs(arrays["tokens"], segments=segments, **{name: arrays[name] for name, _ in self.beside})

    def _features(self, model: CausalLM, inputs: Inputs) -> NamedArray:
        return with_products(model, self.products)(inputs, compute_dtype=self.compute_dtype).features

    def token_losses(self, model: CausalLM, batch: Batch) -> jax.Array:
        """The cross entropy of each target in nats, without weights: float32 [batch, position].

        Args:
            model: The model.
            batch: Arrays [batch, position].
        """
        arrays = named(batch, self.fields)
        features = self._features(model, self._inputs(arrays)._replace(weights=arrays[self.weights]))
        found = token_log_probs(features, model.head, arrays["targets"], model.softmax).log_probs
        return -found.rearrange((BATCH, POSITION)).array

    def sampled(self, model: CausalLM, batch: Batch, seeds: jax.Array) -> Batch:
        """The batch with targets that the model samples, each from its distribution at that position.

        Args:
            model: The model.
            batch: Arrays [batch, position].
            seeds: A random number for each row: uint32 [batch].
        """
        arrays = named(batch, self.fields.keys() - {"targets", self.weights})
        features = self._features(model, self._inputs(arrays))
        keys = jax.vmap(jax.random.key)(seeds)
        return {**batch, "targets": sampled_tokens(features, model.head, keys, model.softmax)}


def next_token_sums(
    model: CausalLM,
    inputs: Inputs,
    targets: NamedArray,
    weights: NamedArray,
    *,
    compute_dtype: DTypeLike = jnp.float32,
    z_loss: float = 0.0,
    multi_token: tuple[float, NamedArray] | None = None,
    teacher: Teacher | None = None,
) -> Sums:
    """Cross entropy of `targets`, in nats. With a z-loss, also the penalty and the metric ``z_loss``, without its
    factor. With layers that predict further tokens, the penalty and a metric of each, from
    ``multi_token_loss_1`` on: as in the equations 24 and 25 of DeepSeek-AI 2024, divided by the weight of the next
    tokens.

    Args:
        model: The model.
        inputs: Inputs of the model; it gets `weights` as its weights.
        targets: (..., position) integers: the next token at each position.
        weights: (..., position) float32: the weight of each target; 0 for padding.
        compute_dtype: Type of activations and matrix products. The loss itself is float32.
        z_loss: See `NextToken`.
        multi_token: The weight, and the document of each position: (..., position) integers. None: the model has no
            layers that predict further tokens.
        teacher: A model to learn from.
    """
    weights = weights.astype(jnp.float32)
    outputs = model(inputs._replace(weights=weights), compute_dtype=compute_dtype)
    found = cross_entropy(outputs.features, model.head, targets, weights, model.softmax, z_loss=z_loss)
    sums = Sums(found.total, hax.sum(weights).scalar())
    if outputs.penalty is not None or outputs.aux:
        sums = with_routers(sums, outputs, hax.sum(weights, POSITION))
    if multi_token is not None and isinstance(model, Decoder):
        factor, documents = multi_token
        given = inputs._replace(weights=weights)
        predicted, routers = model.further(outputs.features, given, targets, documents, compute_dtype)
        losses = [cross_entropy(one.features, model.head, *one[1:], model.softmax).total for one in predicted]
        penalty = factor * jnp.mean(jnp.stack(losses))
        if sums.penalty is not None:
            penalty += sums.penalty
        if routers is not None:
            penalty += hax.sum(routers * hax.sum(weights, POSITION)).scalar()
        names = {f"multi_token_loss_{number}": loss for number, loss in enumerate(losses, 1)}
        sums = sums._replace(metrics=sums.metrics | names, penalty=penalty)
    sums = _with_z_loss(sums, z_loss, found.squared_log_totals) if z_loss else sums
    return sums if teacher is None else teacher.taught(sums, model, outputs.features, inputs, weights, compute_dtype)


def _with_z_loss(sums: Sums, factor: float, squares: jax.Array) -> Sums:
    """Sums whose z-loss is a penalty: evaluations and the reported loss are cross entropies.

    Args:
        sums: Their loss contains the z-loss, and has the gradient of both.
        factor: See `NextToken`.
        squares: The sum of the squared logarithms, which has no gradient.
    """
    z_loss = factor * squares
    penalty = z_loss if sums.penalty is None else sums.penalty + z_loss
    return sums._replace(loss=sums.loss - z_loss, metrics={**sums.metrics, "z_loss": squares}, penalty=penalty)
