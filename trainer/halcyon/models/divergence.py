"""The divergence of a model from its teacher: a weighted sum over positions of the divergence of their distributions of
the next token, computed in blocks of positions like `halcyon.models.log_probs`.

With P of the trained model, Q of the teacher, and M = beta Q + (1 - beta) P:

- beta 0: the forward divergence ``sum Q log (Q / P)`` (Hinton et al. 2015);
- beta 1: the reverse divergence ``sum P log (P / Q)`` (Gu et al. 2024);
- between: ``beta sum Q log (Q / M) + (1 - beta) sum P log (P / M)``, the generalized Jensen-Shannon divergence (Agarwal
  et al. 2024, equation 1).

With the ``most`` likely tokens of the teacher, all others together are one outcome. The gradient with respect to the
logits of P is ``g - P sum(g)``, where g is P times the derivative with respect to P, up to a constant factor of P.
"""

import functools
from typing import Any, NamedTuple

import haliax as hax
import jax
import jax.numpy as jnp
from haliax import NamedArray

from halcyon.models.axes import cut, joined
from halcyon.models.logit_blocks import Pair, blocks_of, by_factors, completed, logits_of, stored_last
from halcyon.models.partition import Result, Shard, by_device
from halcyon.models.softmax import Softmax

_LEAST_LOG = -1e30
"""Stands for the logarithm of 0: its product with 0 is 0."""


class Scores(NamedTuple):
    """What a model's distribution of the next token is made of."""

    features: NamedArray
    """(..., position, embed)."""
    head: NamedArray
    """Axes vocab and embed, in any order."""
    softmax: Softmax
    """`halcyon.models.CausalLM.softmax` of the model."""


def divergence(
    student: Scores, teacher: Scores, weights: NamedArray, beta: float, most: int | None = None
) -> jax.Array:
    """The weighted sum of the divergences at all positions, in nats: float32 scalar. Differentiable with respect to
    features and head of the student.

    Args:
        student: The trained model.
        teacher: The other model, with the same vocabulary.
        weights: (..., position) float32. They get no gradient.
        beta: See this module.
        most: Tokens of the teacher that are outcomes of their own. None: all tokens.
    """
    softmax = student.softmax
    most = None if most is None or most >= softmax.vocab.size else most
    form = _Form(softmax, teacher.softmax, beta, most, blocks_of(weights, softmax.vocab, None))
    return _divergence(student.features, student.head, teacher[:2], weights, form)


def outcomes(beta: float, log_p: jax.Array, log_q: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The part of each outcome in the divergence, and g (see this module), from the logarithms of P and Q."""
    p, q = jnp.exp(log_p), jnp.exp(log_q)
    if beta == 0:
        return q * (log_q - log_p), -q
    if beta == 1:
        return p * (log_p - log_q), p * (log_p - log_q)
    log_m = jnp.logaddexp(log_q + jnp.log(beta), log_p + jnp.log1p(-beta))
    by_p = (1 - beta) * p * (log_p - log_m)
    return beta * q * (log_q - log_m) + by_p, by_p


class _Form(NamedTuple):
    softmax: Softmax
    of_teacher: Softmax
    beta: float
    most: int | None
    blocks: int


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _divergence(features: NamedArray, head: NamedArray, teacher: Pair, weights: NamedArray, form: _Form) -> jax.Array:
    return _forward(features, head, teacher, weights, form)[0]


@jax.named_scope("teacher")
def _forward(
    features: NamedArray, head: NamedArray, teacher: Pair, weights: NamedArray, form: _Form
) -> tuple[jax.Array, Pair]:
    """The sum, and its gradients with respect to features and head."""
    softmax, of_teacher, beta, most, blocks = form

    def of_device(
        shard: Shard, arrays: tuple[NamedArray, ...], heads: Pair
    ) -> tuple[jax.Array, NamedArray, NamedArray]:
        whole = [shard.gathered(one.astype(with_them.dtype)) for one, with_them in zip(heads, arrays, strict=False)]
        order = stored_last(shard, softmax)

        def over_vocabulary(values: jax.Array) -> jax.Array:
            return shard.sum_over(softmax.vocab, jnp.sum(values, -1, keepdims=True))

        def log_softmax(logits: jax.Array) -> jax.Array:
            greatest = shard.max_over(softmax.vocab, jnp.max(logits, -1, keepdims=True))
            found = logits - greatest - jnp.log(over_vocabulary(jnp.exp(logits - greatest)))
            return jnp.maximum(found, _LEAST_LOG)

        def among_most(logits: jax.Array, most: int) -> jax.Array:
            """Whether a token of this device is one of the most likely ones."""
            part, first = shard.part(softmax.vocab)
            own = jax.lax.top_k(logits, min(most, part.size))[0]
            every = jnp.full((*own.shape[:-1], softmax.vocab.size // part.size, own.shape[-1]), -jnp.inf)
            every = shard.max_over(softmax.vocab, every.at[..., first // part.size, :].set(own))
            return logits >= jax.lax.top_k(every.reshape(*own.shape[:-1], -1), most)[0][..., -1:]

        def accumulate(sums: tuple[jax.Array, NamedArray], part: tuple[NamedArray, ...]) -> Any:
            here, there, weights = part
            named, slope = logits_of(shard, here, whole[0], softmax)
            axes = (*weights.axes, order[0])
            log_p = log_softmax(named.rearrange(axes).array)
            log_q = log_softmax(logits_of(shard, there, whole[1], of_teacher)[0].rearrange(axes).array)
            if most is None:
                found, by_p = outcomes(beta, log_p, log_q)
                total, by_all = over_vocabulary(found), over_vocabulary(by_p)
            else:
                alone = among_most(log_q, most)
                found, by_p = (jnp.where(alone, one, 0.0) for one in outcomes(beta, log_p, log_q))
                rest = [
                    jnp.log(
                        jnp.maximum(over_vocabulary(jnp.where(alone, 0.0, jnp.exp(one))), jnp.finfo(jnp.float32).tiny)
                    )
                    for one in (log_p, log_q)
                ]
                of_rest, by_rest = outcomes(beta, *rest)
                total, by_all = over_vocabulary(found) + of_rest, over_vocabulary(by_p) + by_rest
                by_p = jnp.where(alone, by_p, by_rest * jnp.exp(log_p - rest[0]))
            factor = weights.array[..., None]
            by_logits = NamedArray((by_p - jnp.exp(log_p) * by_all) * factor, axes)
            by_logits = by_logits if slope is None else by_logits * slope
            by_features, by_head = by_factors(by_logits, here, whole[0], softmax, order)
            return (sums[0] + jnp.sum(total * factor), sums[1] + by_head), by_features

        start = (jnp.zeros((), jnp.float32), hax.zeros(order, dtype=jnp.float32))
        (total, by_head), by_features = jax.lax.scan(accumulate, start, cut(arrays, blocks))
        return shard.sum_over_batch(total), *completed(shard, joined(by_features), by_head, heads[0], softmax)

    results = (Result(), Result(features.axis_names), Result(head.axis_names, parameter=True))
    arrays, heads = (features, teacher[0], weights), (head, teacher[1])
    total, by_features, by_head = by_device(of_device, arrays, heads, results)
    return total, (by_features, by_head.astype(head.dtype))


def _backward(form: _Form, found: Pair, cotangent: jax.Array) -> tuple[NamedArray, NamedArray, None, None]:
    del form
    by_features, by_head = ((one * cotangent).astype(one.dtype) for one in found)
    return by_features, by_head, None, None


_divergence.defvjp(_forward, _backward)
